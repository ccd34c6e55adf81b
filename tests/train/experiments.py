"""Small experiments of every family, and their programs on a mesh."""

from dataclasses import replace
from pathlib import Path

import jax

from data.text.labelled import LabelledText
from data.text.language_modelling import Text
from data.text.multi_labelled import MultiLabelledText
from data.text.parallel import ParallelText
from data.text.related import RelatedTexts
from data.text.scored import ScoredText
from data.text.squad import SquadText
from data.text.tagged import TaggedText
from fmodels.alexnet import AlexNetConfig
from fmodels.bert import BertConfig
from fmodels.convnet import ConvNetConfig
from fmodels.efficientnet import efficientnet
from fmodels.gpt import MODERN, GptConfig
from fmodels.inception import InceptionConfig
from fmodels.mixnet import mixnet
from fmodels.mobilenet import MobileNetConfig
from fmodels.resnet import ResNetConfig, cifar_resnet
from fmodels.t5 import T5Config
from fmodels.transformer import Seq2SeqConfig
from fmodels.vit import VitConfig
from train.experiment import Experiment, Run, with_run
from train.objectives.augmentation import Augmentation
from train.objectives.causal_lm import CausalLM
from train.objectives.classification import Classification
from train.objectives.image_contrast import ImageContrast
from train.objectives.masked_lm import MaskedLM
from train.objectives.masked_patches import DECODER, MaskedPatches
from train.objectives.multi_label import MultiLabel
from train.objectives.question_answering import QuestionAnswering
from train.objectives.regression import Regression
from train.objectives.sentence_embedding import SentenceEmbedding
from train.objectives.seq2seq import Seq2Seq
from train.objectives.span_corruption import SpanCorruption
from train.objectives.token_classification import TokenClassification
from train.optim import Optimizer
from train.recipes.digits import digits_cnn, digits_mlp
from train.sharding import Mesh
from train.step import Program, build

STEPS, ROWS, LENGTH = 4, 16, 12
# eps is larger than the rounding errors of gradients that are exactly 0 (those of key biases), which Adam would amplify.
ADAMW = Optimizer(learning_rate=1e-2, schedule="cosine", warmup_steps=1, weight_decay=0.1, eps=1e-5)


def short(folder: Path) -> Experiment:
    """A digits run with checkpoints of steps 20 and 40."""
    return with_run(digits_mlp(), dir=str(folder), steps=40, checkpoint_every=20, evaluate_every=40)


SIZES = {"layers": 1, "width": 16, "heads": 4, "hidden": 24, "vocab_size": 40, "max_length": 16}
SIZES |= {"dropout": 0.0, "attention_dropout": 0.0}


def bert(**changes) -> Experiment:
    return Experiment(
        model=BertConfig(**{**SIZES, **changes}),
        objective=MaskedLM(mask_rate=0.3, next_sentence=True, mask_id=4, random_ids=(5, 40)),
        data=Text(layout="pairs", length=LENGTH, batch_size=ROWS),
        optimizer=ADAMW,
        run=Run(steps=STEPS),
    )


def bert_with_dropout() -> Experiment:
    return bert(dropout=0.1, attention_dropout=0.2)


def scanned() -> Experiment:
    return bert(scan=True, layers=2)


def packed() -> Experiment:
    """Several sequences per row, and whole-word masking."""
    objective = replace(bert().objective, next_sentence=False, whole_words=True)
    return replace(bert(), objective=objective, data=Text(layout="packed", length=LENGTH, batch_size=ROWS))


def gpt(layout: str = "stream", logits_chunk: int | None = None, **changes) -> Experiment:
    objective, data = CausalLM(logits_chunk=logits_chunk), Text(layout=layout, length=LENGTH, batch_size=ROWS)
    return replace(bert(), model=GptConfig(**{**SIZES, **changes}), objective=objective, data=data)


def gpt_chunked() -> Experiment:
    return gpt(logits_chunk=5, scan=True, remat="full", layers=2)


def gpt_packed() -> Experiment:
    """The block of Llama, with local and global layers."""
    return gpt("packed", **MODERN, kv_heads=2, tied=False, layers=2, window=3, global_every=2)


def translation() -> Experiment:
    """Several pairs of texts per row."""
    objective = Seq2Seq(logits_chunk=5, label_smoothing=0.1, metrics=(), vocab_size=40, start_id=2, end_id=3)
    data = ParallelText(source="none", length=LENGTH, batch_size=ROWS)
    return replace(gpt(), model=Seq2SeqConfig(**SIZES), objective=objective, data=data)


def t5_packed() -> Experiment:
    model = T5Config(**{**SIZES, "layers": 2}, activation="geglu", tied=False, scan=True, remat="full")
    return replace(translation(), model=model)


def spans() -> Experiment:
    objective = SpanCorruption(sentinel_ids=(36, 39), start_id=2, end_id=3, mask_id=4)
    data = Text(length=LENGTH, batch_size=ROWS, sentinels=4)
    return replace(gpt(), model=T5Config(**SIZES), objective=objective, data=data)


def classes() -> Experiment:
    objective = Classification(classes=10, label_shares=(0.1,) * 10, label_smoothing=0.1)
    return replace(bert(), objective=objective, data=LabelledText(length=LENGTH, batch_size=ROWS))


def embeddings() -> Experiment:
    """A loss that compares the rows of all devices."""
    data = RelatedTexts(source="none", length=LENGTH, batch_size=ROWS)
    return replace(bert(pooling="mean"), objective=SentenceEmbedding(), data=data)


def tags() -> Experiment:
    return replace(
        bert(), objective=TokenClassification(classes=5), data=TaggedText(source="none", length=LENGTH, batch_size=ROWS)
    )


def answers() -> Experiment:
    data = SquadText(source="none", length=LENGTH, stride=2, question_length=4, batch_size=ROWS)
    return replace(bert(), objective=QuestionAnswering(), data=data)


def numbers() -> Experiment:
    objective = Regression(score_mean=1.0, score_std=2.0)
    return replace(bert(), objective=objective, data=ScoredText(source="none", length=LENGTH, batch_size=ROWS))


def several_labels() -> Experiment:
    data = MultiLabelledText(source="none", length=LENGTH, batch_size=ROWS, most_labels=3)
    return replace(bert(), objective=MultiLabel(classes=10), data=data)


def muon() -> Experiment:
    return replace(bert(), optimizer=replace(ADAMW, name="muon"))


def rmsprop() -> Experiment:
    return replace(bert(), optimizer=replace(ADAMW, name="rmsprop", schedule="wsd"))


def mlp() -> Experiment:
    recipe = digits_mlp()
    objective = replace(recipe.objective, classes=10, label_shares=(0.1,) * 10)
    model, data = replace(recipe.model, hidden=(32, 16)), replace(recipe.data, batch_size=ROWS)
    return replace(recipe, model=model, objective=objective, data=data, optimizer=ADAMW, run=Run(steps=STEPS))


def cnn() -> Experiment:
    """The network of the recipe, including dropout, with one stage less."""
    recipe = digits_cnn()
    objective = replace(recipe.objective, classes=10, label_shares=(0.1,) * 10)
    model, data = replace(recipe.model, channels=(8, 16)), replace(recipe.data, batch_size=ROWS)
    return replace(recipe, model=model, objective=objective, data=data, optimizer=ADAMW, run=Run(steps=STEPS))


def image_model(model, size: int = 32) -> Experiment:
    """Colour images."""
    optimizer = Optimizer(name="momentum", learning_rate=1e-2)
    return replace(cnn(), model=model, data=replace(cnn().data, shape=(size, size, 3)), optimizer=optimizer)


def resnet() -> Experiment:
    """Bottlenecks and projections, without a shrinking stem."""
    return image_model(ResNetConfig(depths=(1, 1), width=8, stem="small", drop_path=0.2), 8)


def cifar() -> Experiment:
    return image_model(cifar_resnet(20, width=8, depths=(1, 1)), 8)


def vit() -> Experiment:
    return image_model(VitConfig(layers=2, width=16, heads=4, hidden=24, patch=4, scan=True, remat="full", drop_path=0.2), 8)


def augmented() -> Experiment:
    """Every random change of images."""
    augment = Augmentation(resized_crop=0.3, crop=1, flip=True, rotation=20, color_jitter=0.4, operations=1, erasing=0.5)
    recipe = textbook()
    objective = replace(recipe.objective, augment=augment, mixup=0.5, cutmix=1.0, image_mean=(0.5,) * 3, image_std=(0.2,) * 3)
    return replace(recipe, objective=objective)


def masked_patches() -> Experiment:
    decoder = replace(DECODER, layers=1, width=16, heads=4)
    return replace(vit(), objective=MaskedPatches(patch=4, mask_rate=0.5, decoder=decoder, augment=Augmentation(flip=True)))


def contrast() -> Experiment:
    """A loss that compares the images of all devices."""
    return replace(cifar(), objective=ImageContrast(projection=8))


def textbook() -> Experiment:
    """Max pooling, dense layers, and no batch norm."""
    return image_model(ConvNetConfig(channels=(8, 16), convolutions=(1,), pools=2, batch_norm=False, hidden=(24, 16)), 8)


def alexnet() -> Experiment:
    return image_model(AlexNetConfig(hidden=(16, 16)), 64)


def inception() -> Experiment:
    return image_model(InceptionConfig(), 107)


def mobilenet() -> Experiment:
    return image_model(MobileNetConfig(width=0.25), 32)


def efficient() -> Experiment:
    return image_model(efficientnet("b0", width=0.25, depth=0.5), 32)


def mixed() -> Experiment:
    return image_model(mixnet("s", width=0.5), 32)


def program(experiment: Experiment, mesh: Mesh, devices: int = 8) -> Program:
    spec = {name: jax.ShapeDtypeStruct(s.shape, s.dtype) for name, s in experiment.data.spec().items()}
    return build(replace(experiment, mesh=mesh), spec, mesh.build(jax.devices()[:devices]))
