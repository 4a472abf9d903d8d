"""Nano as one program more: what the page about ExecuTorch's runners prints, and that both forms give what the bundle's
own programs give.

The programs are written beside a bundle that is there, so that nothing but them is lowered.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from g3n_compiler.lower.executorch.backend import ExecuTorchBackend
from g3n_compiler.lower.executorch.single.compare import as_parts, open_single, turn
from g3n_compiler.lower.executorch.single.forms import FORMS, Form
from g3n_compiler.lower.executorch.single.program import SingleWriter
from g3n_compiler.lower.executorch.tables import TableLayout, TablesFile
from g3n_compiler.lower.job import Job
from g3n_compiler.nano import checkpoint_dir, heldout_senses_dir
from g3n_compiler.source import Source
from g3n_compiler.verify.golden import golden_inputs
from g3n_compiler.verify.run import alternate_checks
from g3n_runtime.bundle import open_bundle
from g3n_runtime.executorch.program import load_program
from g3n_runtime.executorch.roles import ROLES
from g3n_runtime.executorch.tokenizer import Vocabulary
from g3n_runtime.media.image import load_image
from g3n_runtime.media.sound import read_clip
from tests.documented import text_of
from tests.jobs import make_job

PAGE = "docs/apps/llama-demo.md"
ANSWERS = ["Reversed: house river stone", "7", "zero red"]
TABLE = "get_table_"


@pytest.fixture(scope="module")
def job(nano_int4: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Both forms, over the tables of a bundle of nano."""
    bundle, folder = open_bundle(nano_int4), tmp_path_factory.mktemp("single")
    manifest, tables = bundle.manifest, bundle.file(ROLES["tables"])
    job = make_job(
        Source.open(checkpoint_dir()).rewritten(),
        folder,
        "int4",
        context=manifest["context"],
        prefill_lengths=tuple(manifest["prefill_lengths"]),
        resolutions=tuple(manifest["vision"]["image_sizes"]),
        single=FORMS,
        files={**bundle.paths, **{ROLES[form]: folder / f"nano-int4-{form}.pte" for form in FORMS}},
    )
    program = load_program(bundle.file(ROLES["model"]), tables)
    layouts = {
        name.removeprefix(TABLE): TableLayout(*map(int, program.load_method(name).execute([])))
        for name in program.method_names
        if name.startswith(TABLE)
    }
    writer = SingleWriter(job, tables, TablesFile(layouts, {}, {}))
    for form in FORMS:
        writer.write(form, job.files[ROLES[form]])
    return job


def test_the_page_about_the_stock_runner_shows_what_it_answers(job: Job, tmp_path: Path) -> None:
    """Its lines as they stand, in a folder with the files that they name."""
    _, _, media = text_of(PAGE).partition("## Pictures and sounds")
    (lines,) = re.findall(r"```python\n(.*?)```", media, re.DOTALL)
    senses = heldout_senses_dir()
    for file in (
        job.files[ROLES["stock"]],
        job.files[ROLES["tokenizer"]],
        senses / "seven.png",
        senses / "speech/05.ogg",
    ):
        (tmp_path / file.name).symlink_to(file.absolute())
    done = subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"(?m)^(.+)<end_of_turn>", done.stdout) == ANSWERS
    assert all(f"`{answer}`" in media for answer in ANSWERS)


def test_both_forms_give_what_the_bundle_gives(job: Job) -> None:
    golden = golden_inputs(job.tokenizer, job.config, job.context)[0]
    checks = list(alternate_checks(job, {"executorch": ExecuTorchBackend()}, golden))
    assert not [check for check in checks if not check.passed]
    # Four methods of stock, five of rows, and the stock runner after a text, a picture and a sound.
    assert len(checks) == 4 + 5 + 3
    assert all(check.note for check in checks if check.metric == "different"), "an answer should not be empty"


@pytest.mark.parametrize("form", FORMS)
def test_the_calls_of_each_app_lead_to_the_right_answers(job: Job, form: Form) -> None:
    senses, loop, words = heldout_senses_dir(), open_single(job, form), Vocabulary(job.files[ROLES["tokenizer"]])
    picture, sound = load_image(senses / "seven.png", 256, "bicubic"), read_clip(senses / "speech" / "05.ogg")
    prompts = [
        turn(job, "Reverse: stone river house"),
        turn(job, "What digit is this?", picture),
        turn(job, "Transcribe.", sound),
    ]
    said = [words.decode(loop.answer(as_parts(prompt, words, job.tokenizer.bos_id), 24)) for prompt in prompts]
    assert said == ANSWERS


def test_what_react_native_executorch_reads_of_a_file(job: Job) -> None:
    """Names, ranks and largest sizes, as its C++ asks for them."""
    loop, c = open_single(job, "rows"), job.config
    layers, hidden, side = c.num_layers, c.hidden_size, job.resolutions[0]
    assert {"forward", "token_embedding", "text_decoder", "vision_encoder", "audio_encoder"} <= loop.methods
    assert loop.constant("has_ple") == [True] and loop.constant("get_max_context_len") == [job.context]
    assert loop.sizes("token_embedding") == (
        [(1, job.context)],
        [(1, job.context, hidden), (1, job.context, layers, c.ple_dim)],
    )
    chunk = loop.chunk
    inputs, outputs = loop.sizes("text_decoder")
    assert inputs == [(1, chunk, hidden), (1, chunk, layers, c.ple_dim), (chunk,)] and outputs == [(1, 1, c.vocab_size)]
    assert loop.sizes("vision_encoder") == ([(1, 3, side, side)], [(1, 257, hidden)])
    assert loop.sizes("audio_encoder") == ([(1, 481_280), ()], [(1, 189, hidden)])
    # The app fills a sound up to whole blocks, and says how much of it there is.
    sound = np.zeros(7680 * 2, np.float32)
    sound[:9000] = np.sin(np.arange(9000))
    padded = loop.run("audio_encoder", torch.from_numpy(sound)[None], torch.tensor(9000))[0][0]
    assert np.array_equal(padded, loop.encode(sound[:9000]))
    assert not np.array_equal(padded, loop.encode(sound))
