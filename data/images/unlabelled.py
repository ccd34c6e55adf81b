"""Images of one size without labels, for pretraining."""

from dataclasses import dataclass

from data.dataset import Dataset
from data.images.stored import FromImages, ImageCodec, Pictures
from data.mixture import weighted


@dataclass(frozen=True, kw_only=True)
class UnlabelledImages(FromImages):
    """Batches of `image` float32 [B, H, W, C]. Labels of the source, such as class folders, are not read."""

    def build(self) -> Dataset:
        images = self.images()
        about, codec = images.facts, ImageCodec(self.shape, self.resize, self.convert, ())
        splits = images.decoded(codec)
        splits["train"] = weighted(splits["train"], images.column("part")["train"], about["weights"], self.source)
        return Dataset(
            splits=splits,
            facts=self.normalization(about["mean"], about["std"]),
            fingerprint=about["fingerprint"],
            codec=codec,
            shown={split: Pictures(examples) for split, examples in splits.items()},
            notes=images.notes,
            about={"source": images.source},
            bad_records=about["bad"],
        )
