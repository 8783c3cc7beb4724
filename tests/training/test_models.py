"""Small models: shapes, sizes, initial weights, and what a wrong one says."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from evsim.base.errors import ModelError, PolicyError
from evsim.training.models.base import check_model
from evsim.training.models.factory import Factory
from evsim.training.models.images import FemnistCnn, LeNet
from evsim.training.models.mobilenet import MobileNetV2
from evsim.training.models.resnet import ResNet
from evsim.training.models.small import Cnn, Gru, Mlp, Softmax
from evsim.training.models.text import CharLstm
from evsim.training.models.transformer import CausalTransformer, Transformer

IMAGE, TOKENS = (1, 8, 8), (12,)


def build(model, shape=IMAGE, *, n_classes=10, n_tokens=None, seed=0):
    return model.build(shape=shape, n_classes=n_classes, n_tokens=n_tokens, seed=seed)


def size(module):
    return sum(leaf.numel() for leaf in module.parameters())


KINDS = [
    (Softmax(), IMAGE, None),
    (Mlp(hidden=(32, 16)), IMAGE, None),
    (Cnn(channels=(4, 8), hidden=16), IMAGE, None),
    (Cnn(channels=(4, 12), hidden=16, norm="group"), IMAGE, None),
    (Gru(hidden=16), TOKENS, 20),
    (LeNet(), IMAGE, None),
    (ResNet(depth=10, width=4), IMAGE, None),
    (ResNet(depth=8, width=4), IMAGE, None),
    (MobileNetV2(width=0.1), IMAGE, None),
    (CharLstm(hidden=8), TOKENS, 20),
    (Transformer(heads=2, width=8, predicts="last"), TOKENS, 20),
]


def batch(shape, n_tokens, *lead):
    draw = torch.Generator().manual_seed(1)
    if n_tokens is not None:
        return torch.randint(0, n_tokens, (*lead, *shape), generator=draw)
    return torch.rand((*lead, *shape), generator=draw)


@pytest.mark.parametrize(
    ("model", "shape", "classes", "expected"),
    [
        (Softmax(), IMAGE, 10, 64 * 10 + 10),
        (Mlp(hidden=(32,)), IMAGE, 10, 2_410),
        (Mlp(hidden=()), IMAGE, 10, 650),
        (Cnn(), (1, 28, 28), 10, 1_663_370),  # McMahan et al. 2017, section 3
        (Cnn(), (1, 28, 28), 62, 1_690_046),
        (LeNet(), (1, 28, 28), 10, 61_706),
        (LeNet(), (1, 32, 32), 10, 61_706),
        (LeNet(), (3, 32, 32), 10, 62_006),  # PyTorch's tutorial
        (LeNet(), (1, 40, 33), 10, 61_706 + 120 * 16 * (7 * 5 - 5 * 5)),
        (FemnistCnn(), (1, 28, 28), 62, 6_603_710),  # LEAF's code
        (ResNet(), (3, 32, 32), 10, 11_173_962),  # kuangliu's pytorch-cifar
        (ResNet(norm="batch"), (3, 32, 32), 100, 11_220_132),
        (ResNet(norm="batch", stem="large"), (3, 64, 64), 1000, 11_689_512),  # torchvision
        (ResNet(depth=34, stem="large"), (3, 64, 64), 1000, 21_797_672),
        (ResNet(depth=20), (3, 32, 32), 10, 269_722),  # He et al. 2016, table 6: 0.27 M, 0.46 M, 0.66 M, 0.85 M
        (ResNet(depth=32), (3, 32, 32), 10, 464_154),
        (ResNet(depth=44), (3, 32, 32), 10, 658_586),
        (ResNet(depth=56), (3, 32, 32), 10, 853_018),
        (MobileNetV2(stem="large"), (3, 64, 64), 1000, 3_504_872),  # torchvision, Keras
        (MobileNetV2(stem="large", width=0.5), (3, 64, 64), 1000, 1_968_680),
        (MobileNetV2(stem="large", width=1.4), (3, 64, 64), 1000, 6_108_776),
        (MobileNetV2(norm="batch"), (3, 32, 32), 10, 2_236_682),
        (Cnn(channels=(4, 8), hidden=16, kernel=3), (3, 9, 13), 5, 4 * 28 + 8 * 37 + 16 * (8 * 2 * 3 + 1) + 5 * 17),
    ],
)
def test_the_number_of_parameters_is_that_of_the_literature(model, shape, classes, expected):
    module = build(model, shape, n_classes=classes)
    assert size(module) == expected
    assert module(torch.zeros(2, *shape)).shape == (2, classes)


@pytest.mark.parametrize(("n_tokens", "expected"), [(80, 817_872), (90, 820_522)])  # LEAF; Reddi et al. 2021
def test_the_size_of_the_lstm_is_that_of_the_literature(n_tokens, expected):
    assert size(build(CharLstm(), (80,), n_classes=n_tokens, n_tokens=n_tokens)) == expected


def test_the_size_of_the_transformer_is_that_of_gpt_2():
    def by_hand(layers, width, time, tokens):
        return tokens * width + time * width + layers * (12 * width**2 + 13 * width) + 2 * width

    small = CausalTransformer(Transformer(layers=3, heads=2, width=16), 7, 11, 11)
    assert size(small) == by_hand(3, 16, 7, 11)
    assert by_hand(12, 768, 1024, 50_257) == 124_439_808  # of the published model


@pytest.mark.parametrize(
    ("model", "side", "expected"),
    [
        (ResNet(), 32, [(64, 32), (128, 16), (256, 8), (512, 4)]),
        (ResNet(depth=34, stem="large"), 224, [(64, 56), (128, 28), (256, 14), (512, 7)]),
        (ResNet(depth=20), 32, [(16, 32), (32, 16), (64, 8)]),
    ],
)
def test_the_stages_of_a_resnet_are_those_of_the_paper(model, side, expected):
    module = build(model, (3, side, side))
    x, found = module.stem(torch.zeros(1, 3, side, side)), []
    for stage, count in zip(module.features, model.blocks, strict=True):
        assert len(stage) == count
        x = stage(x)
        found.append((x.shape[1], x.shape[2]))
    assert found == expected
    weights = [leaf for name, leaf in module.named_parameters() if leaf.dim() > 1 and "shortcut" not in name]
    assert len(weights) == model.depth


@pytest.mark.parametrize(
    ("stem", "side", "expected"),
    [
        ("large", 64, [32, 32, *[16] * 2, *[8] * 3, *[4] * 7, *[2] * 4]),
        ("small", 32, [32, 32, *[32] * 2, *[16] * 3, *[8] * 7, *[4] * 4]),
    ],
)
def test_the_stages_of_a_mobilenet_are_those_of_the_paper(stem, side, expected):
    features = build(MobileNetV2(stem=stem, width=0.25), (3, side, side))[0]
    x, found = torch.zeros(1, 3, side, side), []
    for layer in features:
        x = layer(x)
        found.append(x.shape[-1])
    assert found[:-1] == expected
    assert x.shape[1] == 1280


def test_the_lstm_equals_that_of_torch_with_one_bias_and_a_forget_gate_of_one():
    module = build(CharLstm(hidden=16), TOKENS, n_tokens=20).double()
    torchs = nn.LSTM(8, 16, 2, batch_first=True).double()
    parts = {}
    for place, layer in enumerate(module.layers):
        assert layer.inputs.bias.tolist() == [0.0] * 16 + [1.0] * 16 + [0.0] * 32
        parts |= {f"weight_ih_l{place}": layer.inputs.weight, f"bias_ih_l{place}": layer.inputs.bias}
        parts |= {f"weight_hh_l{place}": layer.state.weight, f"bias_hh_l{place}": torch.zeros(64)}
    torchs.load_state_dict(parts)
    x = batch(TOKENS, 20, 7)
    torch.testing.assert_close(module(x), module.out(torchs(module.embedding(x))[0][:, -1]), rtol=1e-12, atol=1e-12)
    every = build(CharLstm(hidden=16, predicts="every"), TOKENS, n_tokens=20).double()
    assert every(x).shape == (7, 12, 10)
    torch.testing.assert_close(every(x)[:, -1], module(x), rtol=1e-12, atol=1e-12)


def test_a_token_of_the_transformer_sees_itself_and_what_was_before_it():
    module = build(Transformer(heads=2, width=8), TOKENS, n_tokens=20).double()
    x = batch(TOKENS, 20, 3)
    before = module(x)
    assert before.shape == (3, 12, 10)
    x[:, 7] = (x[:, 7] + 1) % 20
    changed = (module(x) != before).any(-1)
    assert not changed[:, :7].any()
    assert changed[:, 7:].all()
    assert build(Transformer(heads=2, width=8), TOKENS, n_tokens=20).out is not None
    last = build(Transformer(heads=2, width=8, predicts="last"), TOKENS, n_tokens=20).double()
    torch.testing.assert_close(last(x), module(x)[:, -1], rtol=1e-12, atol=1e-12)


def test_the_attention_of_the_transformer_is_that_of_torch():
    module = build(Transformer(heads=2, width=8, layers=1), TOKENS, n_tokens=20).double().blocks[0].attn
    q, k, v = (layer.weight for layer in (module.q, module.k, module.v))
    torchs = nn.MultiheadAttention(8, 2, batch_first=True).double()
    bias = torch.cat([layer.bias for layer in (module.q, module.k, module.v)])
    torchs.load_state_dict(
        {
            "in_proj_weight": torch.cat([q, k, v]),
            "in_proj_bias": bias,
            "out_proj.weight": module.out.weight,
            "out_proj.bias": module.out.bias,
        }
    )
    x = torch.rand(3, 5, 8, dtype=torch.float64)
    later = torch.ones(5, 5, dtype=torch.bool).triu(1)
    expected, _ = torchs(x, x, x, attn_mask=later)
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: ResNet(depth=50), "depth"),
        (lambda: ResNet(width=0), "width"),
        (lambda: ResNet(groups=0), "groups"),
        (lambda: MobileNetV2(width=0.0), "width"),
        (lambda: MobileNetV2(dropout=1.0), "dropout"),
        (lambda: MobileNetV2(groups=0), "groups"),
        (lambda: CharLstm(layers=0), "layers"),
        (lambda: CharLstm(embedding=0), "embedding"),
        (lambda: Transformer(heads=3), "heads"),
        (lambda: Transformer(width=0), "width"),
        (lambda: Transformer(dropout=-0.1), "dropout"),
    ],
)
def test_impossible_sizes_are_refused_by_name(model, said):
    with pytest.raises(PolicyError, match=said):
        model()


@pytest.mark.parametrize(
    ("model", "shape", "n_tokens", "said"),
    [
        (LeNet(), (64,), None, "lenet: inputs have shape (64,)"),
        (FemnistCnn(), (1, 3, 8), None, "femnist_cnn: inputs have shape (1, 3, 8)"),
        (ResNet(), (12,), 20, "resnet: inputs have shape (12,)"),
        (ResNet(stem="large"), (3, 16, 16), None, "height >= 32"),
        (MobileNetV2(), (3, 4, 4), None, "height >= 8"),
        (CharLstm(), (3, 8, 8), None, "char_lstm: inputs have shape (3, 8, 8); expected a sequence of token ids"),
        (Transformer(), (12,), None, "transformer: inputs have shape (12,)"),
    ],
)
def test_inputs_that_do_not_fit_are_said_with_their_shape(model, shape, n_tokens, said):
    with pytest.raises(ModelError) as caught:
        build(model, shape, n_tokens=n_tokens)
    assert said in str(caught.value)


@pytest.mark.parametrize(("model", "shape", "n_tokens"), KINDS)
def test_initial_weights_are_a_function_of_the_seed_alone(model, shape, n_tokens):
    before = torch.get_rng_state()
    first = build(model, shape, n_tokens=n_tokens).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    torch.set_default_dtype(torch.float64)
    try:
        again = build(model, shape, n_tokens=n_tokens).state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    other = build(model, shape, n_tokens=n_tokens, seed=1).state_dict()
    assert all(leaf.dtype == torch.float32 and torch.equal(leaf, again[name]) for name, leaf in first.items())
    assert any(not torch.equal(leaf, other[name]) for name, leaf in first.items())


@pytest.mark.parametrize(("model", "shape", "n_tokens"), KINDS)
def test_gradients_of_stacked_clients_equal_those_of_one_after_the_other(model, shape, n_tokens):
    modules = [build(model, shape, n_tokens=n_tokens, seed=seed).double() for seed in range(3)]
    params = [dict(module.named_parameters()) for module in modules]
    stacked = {name: torch.stack([leaves[name].detach() for leaves in params]) for name in params[0]}
    x = batch(shape, n_tokens, 3, 5)
    x = x.double() if x.is_floating_point() else x

    def loss(leaves, inputs):
        return functional_call(modules[0], leaves, (inputs,)).logsumexp(1).sum()

    together = vmap(grad(loss))(stacked, x)
    for client in range(3):
        alone = grad(loss)({name: leaf[client] for name, leaf in stacked.items()}, x[client])
        for name, leaf in alone.items():
            torch.testing.assert_close(together[name][client], leaf, rtol=1e-10, atol=1e-12)


def test_the_gru_equals_that_of_torch():
    module = build(Gru(embedding=8, hidden=16), TOKENS, n_tokens=20).double()
    torchs = nn.GRU(8, 16, batch_first=True).double()
    parts = {"weight_ih_l0": module.inputs.weight, "bias_ih_l0": module.inputs.bias}
    parts |= {"weight_hh_l0": module.state.weight, "bias_hh_l0": module.state.bias}
    torchs.load_state_dict(parts)
    x = batch(TOKENS, 20, 7)
    expected = module.out(torchs(module.embedding(x))[0][:, -1])
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)
    assert size(module) == 20 * 8 + size(torchs) + 17 * 10


def test_normalization_follows_each_convolution():
    kinds = {"none": 0, "group": 2, "batch": 2}
    for norm, expected in kinds.items():
        module = build(Cnn(norm=norm))
        assert sum(isinstance(m, nn.GroupNorm | nn.BatchNorm2d) for m in module.modules()) == expected


def test_dropout_is_there_only_where_asked_for():
    for model, expected in ((Mlp(hidden=(8, 8), dropout=0.5), 2), (Mlp(), 0), (Cnn(dropout=0.5), 1), (Cnn(), 0)):
        assert sum(isinstance(m, nn.Dropout) for m in build(model).modules()) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mlp(hidden=(0,)),
        lambda: Mlp(dropout=1.0),
        lambda: Cnn(kernel=4),
        lambda: Cnn(channels=(0, 1)),
        lambda: Cnn(hidden=0),
        lambda: Gru(hidden=0),
        lambda: Factory(target="nowhere"),
    ],
)
def test_impossible_values_are_refused(make):
    with pytest.raises(PolicyError, match="but got"):
        make()


def test_inputs_a_model_cannot_take_are_named():
    with pytest.raises(ModelError, match=r"shape \(64,\); expected \(channels, height >= 4, width >= 4\)"):
        build(Cnn(), (64,))
    with pytest.raises(ModelError, match="expected a sequence of token ids"):
        build(Gru(), IMAGE)


# -- factories ---------------------------------------------------------------------------------------------------------


def linear(n_classes, width=64, *, bias=True):
    return nn.Sequential(nn.Flatten(), nn.Linear(width, n_classes, bias=bias))


def nothing():
    return "no module"


def test_a_factory_gets_its_options_and_what_it_names_and_starts_from_the_seed():
    factory = Factory(target=f"{__name__}:linear", options={"bias": False})
    module = build(factory, n_classes=3)
    assert size(module) == 64 * 3
    assert torch.equal(module[1].weight, build(factory, n_classes=3)[1].weight)
    assert not torch.equal(module[1].weight, build(factory, n_classes=3, seed=1)[1].weight)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("linear", {"bogus": 1}, "while it is built.: TypeError: .*bogus"),
        ("nothing", {}, r"gave str; expected a torch\.nn\.Module"),
        ("missing", {}, "cannot load"),
    ],
)
def test_a_factory_that_gives_no_model_is_named(name, options, said):
    with pytest.raises(ModelError, match=said):
        build(Factory(target=f"{__name__}:{name}", options=options))


# -- the check ---------------------------------------------------------------------------------------------------------


def data(x, n_classes=10, n_tokens=None):
    y = np.zeros(len(x), np.int64)
    return SimpleNamespace(x_test=x, y_test=y, n_classes=n_classes, n_tokens=n_tokens, name="mine")


@pytest.mark.parametrize(("model", "shape", "n_tokens"), KINDS)
def test_a_fitting_model_passes_and_stays_as_it_is(model, shape, n_tokens):
    module = build(model, shape, n_tokens=n_tokens).double()
    for layer in module.children():
        layer.eval()
    state = torch.get_rng_state()
    check_model(module, data(batch(shape, n_tokens, 3).numpy(), n_tokens=n_tokens))
    assert {leaf.dtype for leaf in module.parameters()} == {torch.float64}
    assert [module.training, *(layer.training for layer in module.children())] == [True] + [False] * len(
        list(module.children())
    )
    assert torch.equal(state, torch.get_rng_state())


def test_a_model_whose_output_does_not_fit_the_labels_is_refused():
    x = np.zeros((5, *IMAGE), np.float32)
    with pytest.raises(ModelError, match=r"labels of 'mine': for 2 samples it gave \(2, 3\); expected \(2, 10\)"):
        check_model(build(Softmax(), n_classes=3), data(x))
    with pytest.raises(ModelError, match=r"for 1 samples it gave \(1, 1, 8, 8\); expected \(1, 10\)"):
        check_model(nn.Conv2d(1, 1, 1), data(x[:1]))


def test_inputs_that_do_not_fit_the_model_are_refused():
    with pytest.raises(
        ModelError, match=r"Sequential \(while it is given numbers of shape \(2, 1, 9, 9\)\): RuntimeError"
    ):
        check_model(build(Softmax()), data(np.zeros((2, 1, 9, 9), np.float32)))
    with pytest.raises(ModelError, match=r"while it is given token ids of shape \(2, 12\)"):
        check_model(build(Softmax(), TOKENS), data(np.zeros((2, 12), np.int64), n_tokens=5))
