"""The lessons for nano's towers: each is a loss over one batch, given a seed and the share of the time passed."""

from collections.abc import Callable
from random import Random

from torch import Tensor

from nano_training.heads import Heads
from nano_training.lessons import (
    DIGIT_QUESTIONS,
    SCENE_QUESTIONS,
    SPEECH_QUESTIONS,
    PictureBatch,
    SpeechLessons,
    picture_batch,
)
from nano_training.pictures import SHARE, DigitSet
from nano_training.senses import SOFT_TOKENS, Modality, Prompts, Senses, random_layout
from nano_training.settle import settle
from nano_training.towers import IMAGE_SIZE

Lesson = Callable[[Random, float], tuple[Tensor, float]]
"""From a seeded generator and the share of the time passed to a loss, and the share of correct rows."""

_ROOM: dict[Modality, int] = {"image": 9, "audio": 14}

_Sides = tuple[tuple[float, int, tuple[float, float]], ...]
"""Up to which share of the time pictures have how many pixels per side, and how much of them their subject takes up:
the subject always has about as many pixels, on more and more paper.
"""

_ALONE: _Sides = (
    (0.12, 64, (0.75, 1.0)),
    (0.6, 64, (0.4, 0.95)),
    (0.85, 128, (0.22, 0.6)),
    (1.0, IMAGE_SIZE, SHARE),
)
_ANSWERED: _Sides = ((0.25, 128, (0.22, 0.6)), (1.0, IMAGE_SIZE, SHARE))

_PADDED_FROM = 0.2
"""Share of the time after which prompts hold as many soft tokens of sound as the library's, mostly padding."""

_PADDED = 0.85
"""Share of batches that are padded from then on, so that engines that do not pad are understood as well."""

_SCENES, _SCENES_ANSWERED = 0.4, 0.65
"""Share of pictures that show a shape, not a digit: their answers are whole sentences and take longer to learn."""

_ASIDE = 0.3
"""Weight of the classifiers' losses relative to the answers'."""

_Lengths = tuple[tuple[tuple[int, ...], int], ...]
"""Numbers of words in a batch, and the log-mel frames that hold them; one is drawn."""

_LENGTHS: _Lengths = (((1,), 128), ((1,), 128), ((2,), 192))
_LENGTHS_ANSWERED: _Lengths = (((1,), 128), ((2,), 192), ((2,), 192))

_SINGLE_UNTIL = 0.35
"""Share of the time during which speech is single words."""


class Trainer:
    """One model and its lessons."""

    def __init__(
        self,
        senses: Senses,
        heads: Heads,
        prompts: Prompts,
        digits: DigitSet,
        speech: SpeechLessons,
        batch: int,
    ) -> None:
        self.senses, self.heads, self.prompts = senses, heads, prompts
        self._digits, self._speech, self._batch = digits, speech, batch

    def _pictures(self, rng: Random, fraction: float, sides: _Sides, scenes: float) -> PictureBatch:
        side, share = next((side, share) for until, side, share in sides if fraction <= until or until == 1.0)
        return picture_batch(self._digits, rng, max(4, self._batch * 64 // side), side, share, scenes)

    def picture_class(self, rng: Random, fraction: float) -> tuple[Tensor, float]:
        """Pictures, through the classifier."""
        lesson = self._pictures(rng, fraction, _ALONE, _SCENES)
        return self.heads.picture_loss(self.senses.see(lesson.pixels), lesson.captions)

    def speech_class(self, rng: Random, fraction: float) -> tuple[Tensor, float]:
        """Speech, through the classifier: at first one word at a time."""
        words, frames = _LENGTHS[0] if fraction < _SINGLE_UNTIL else rng.choice(_LENGTHS)
        lesson = self._speech.batch(rng, 2 * self._batch, words, frames)
        return self.heads.speech_loss(*self.senses.hear(lesson.mel, lesson.valid), lesson.words)

    def settle(self, rng: Random, sense: str) -> None:
        """Prepare fresh towers for learning, with one batch of each kind (:mod:`nano_training.settle`)."""
        inner = self.senses.model.model
        if sense != "hearing":
            pixels = picture_batch(self._digits, rng, 64, *_ALONE[1][1:], 0.5).pixels
            settle((inner.vision_tower, inner.embed_vision), lambda: self.senses.see(pixels))
        if sense != "sight":
            sound = self._speech.batch(rng, 64, *_LENGTHS[0])
            settle((inner.audio_tower, inner.embed_audio), lambda: self.senses.hear(sound.mel, sound.valid))

    def picture_answer(self, rng: Random, fraction: float) -> tuple[Tensor, float]:
        """Pictures, through the text model; at first small ones, which give fewer tokens."""
        scenes = rng.random() < _SCENES_ANSWERED
        lesson = self._pictures(rng, fraction, _ANSWERED, float(scenes))
        soft = self.senses.see(lesson.pixels)
        layout = random_layout(SCENE_QUESTIONS if scenes else DIGIT_QUESTIONS, rng)
        prompt = self.prompts.prompt(layout, "image", soft.shape[1])
        ids, targets = self.prompts.rows(prompt, lesson.captions, _ROOM["image"])
        loss, right = self.senses.loss(ids, targets, soft, "image", len(prompt) - 1)
        return loss + _ASIDE * self.heads.picture_loss(soft, lesson.captions)[0], right

    def speech_answer(self, rng: Random, fraction: float) -> tuple[Tensor, float]:
        """Speech, through the text model; padded as in the library, but at first to fewer tokens."""
        words, frames = rng.choice(_LENGTHS_ANSWERED)
        lesson = self._speech.batch(rng, self._batch // 2, words, frames)
        soft, sounding = self.senses.hear(lesson.mel, lesson.valid)
        count = SOFT_TOKENS["audio"]
        if fraction < _PADDED_FROM or rng.random() > _PADDED:
            count = rng.randint(frames // 16, count)
        prompt = self.prompts.prompt(random_layout(SPEECH_QUESTIONS, rng), "audio", count)
        answers = [" ".join(said) for said in lesson.words]
        ids, targets = self.prompts.rows(prompt, answers, _ROOM["audio"])
        padded = self.senses.pad_sound(soft, sounding, count)
        loss, right = self.senses.loss(ids, targets, padded, "audio", len(prompt) - 1)
        return loss + _ASIDE * self.heads.speech_loss(soft, sounding, lesson.words)[0], right
