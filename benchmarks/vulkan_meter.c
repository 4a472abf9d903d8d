/* A Vulkan loader in front of the real one that counts what a GPU delegate asks of a driver.
 *
 * Built as libvulkan.so.1 by gpu_meter.py. G3N_METER_LOADER names the real loader, G3N_METER_FILE a file of eight
 * 64-bit counters, in the order of `enum counter`, which the process that measures maps too.
 *
 * It also waits for the driver as long as that takes: delegates give up after ten seconds, which is a long time for a
 * GPU and a short one for a driver in software with a large model.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum counter { MEMORY_NOW, MEMORY_PEAK, KERNELS, SUBMITS, COPIES, COPIED, LARGEST, COUNTERS = 8 };

typedef void (*Function)(void);
typedef void *Handle;
/* The beginnings of VkMemoryAllocateInfo and VkBufferCopy, by the specification of Vulkan 1.0. */
typedef struct { uint32_t type; const void *next; uint64_t size; uint32_t memory_type; } AllocateInfo;
typedef struct { uint64_t source, target, size; } BufferCopy;

static uint64_t *counters;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct Held { uint64_t memory, size; struct Held *next; } *held[4096];

static Function (*real_instance_proc)(Handle, const char *);
static Function (*real_device_proc)(Handle, const char *);
static int (*real_allocate)(Handle, const AllocateInfo *, const void *, uint64_t *);
static void (*real_free)(Handle, uint64_t, const void *);
static void (*real_dispatch)(Handle, uint32_t, uint32_t, uint32_t);
static void (*real_dispatch_indirect)(Handle, uint64_t, uint64_t);
static int (*real_submit)(Handle, uint32_t, const void *, uint64_t);
static int (*real_wait)(Handle, uint32_t, const uint64_t *, uint32_t, uint64_t);
static void (*real_copy)(Handle, uint64_t, uint64_t, uint32_t, const BufferCopy *);

__attribute__((constructor)) static void start(void) {
  const char *loader = getenv("G3N_METER_LOADER"), *file = getenv("G3N_METER_FILE");
  void *library = loader ? dlopen(loader, RTLD_NOW | RTLD_LOCAL) : NULL;
  int descriptor = file ? open(file, O_RDWR) : -1;
  if (!library || descriptor < 0) abort();
  counters = mmap(NULL, COUNTERS * 8, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (counters == MAP_FAILED) abort();
  close(descriptor);
  *(void **)&real_instance_proc = dlsym(library, "vkGetInstanceProcAddr");
}

static struct Held **slot(uint64_t memory) { return &held[(memory >> 4) % 4096]; }

static int allocate(Handle device, const AllocateInfo *info, const void *callbacks, uint64_t *memory) {
  int result = real_allocate(device, info, callbacks, memory);
  if (result != 0) return result;
  struct Held *new = malloc(sizeof *new);
  pthread_mutex_lock(&lock);
  *new = (struct Held){*memory, info->size, *slot(*memory)};
  *slot(*memory) = new;
  counters[MEMORY_NOW] += info->size;
  if (counters[MEMORY_NOW] > counters[MEMORY_PEAK]) counters[MEMORY_PEAK] = counters[MEMORY_NOW];
  if (info->size > counters[LARGEST]) counters[LARGEST] = info->size;
  pthread_mutex_unlock(&lock);
  return 0;
}

static void release(Handle device, uint64_t memory, const void *callbacks) {
  pthread_mutex_lock(&lock);
  for (struct Held **at = slot(memory); *at; at = &(*at)->next)
    if ((*at)->memory == memory) {
      struct Held *gone = *at;
      counters[MEMORY_NOW] -= gone->size;
      *at = gone->next;
      free(gone);
      break;
    }
  pthread_mutex_unlock(&lock);
  real_free(device, memory, callbacks);
}

static void add(enum counter which, uint64_t n) { __atomic_add_fetch(&counters[which], n, __ATOMIC_RELAXED); }

static void dispatch(Handle commands, uint32_t x, uint32_t y, uint32_t z) {
  add(KERNELS, 1);
  real_dispatch(commands, x, y, z);
}

static void dispatch_indirect(Handle commands, uint64_t buffer, uint64_t offset) {
  add(KERNELS, 1);
  real_dispatch_indirect(commands, buffer, offset);
}

static int submit(Handle queue, uint32_t count, const void *submits, uint64_t fence) {
  add(SUBMITS, 1);
  return real_submit(queue, count, submits, fence);
}

static int wait_for_fences(Handle device, uint32_t count, const uint64_t *fences, uint32_t all, uint64_t timeout) {
  /* A timeout of 0 asks whether they are done. */
  return real_wait(device, count, fences, all, timeout ? UINT64_MAX : 0);
}

static void copy(Handle commands, uint64_t source, uint64_t target, uint32_t count, const BufferCopy *regions) {
  add(COPIES, count);
  for (uint32_t i = 0; i < count; i++) add(COPIED, regions[i].size);
  real_copy(commands, source, target, count, regions);
}

static Function device_proc(Handle device, const char *name);

static Function counted(const char *name, Function real) {
  static const struct { const char *name; void *mine; void *real; } table[] = {
      {"vkGetDeviceProcAddr", device_proc, &real_device_proc},
      {"vkAllocateMemory", allocate, &real_allocate},
      {"vkFreeMemory", release, &real_free},
      {"vkCmdDispatch", dispatch, &real_dispatch},
      {"vkCmdDispatchIndirect", dispatch_indirect, &real_dispatch_indirect},
      {"vkQueueSubmit", submit, &real_submit},
      {"vkCmdCopyBuffer", copy, &real_copy},
      {"vkWaitForFences", wait_for_fences, &real_wait},
  };
  for (size_t i = 0; real && i < sizeof table / sizeof *table; i++)
    if (strcmp(name, table[i].name) == 0) {
      memcpy(table[i].real, &real, sizeof real);
      return (Function)table[i].mine;
    }
  return real;
}

static Function device_proc(Handle device, const char *name) { return counted(name, real_device_proc(device, name)); }

Function vkGetInstanceProcAddr(Handle instance, const char *name) {
  if (strcmp(name, "vkGetInstanceProcAddr") == 0) return (Function)vkGetInstanceProcAddr;
  return counted(name, real_instance_proc(instance, name));
}
