"""Published layouts, on random weights: the converted model equals equations written from the facts alone."""

import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import objecthood as oh
from objecthood.cli.main import main

SIDE, DIM, SLOT_DIM, SLOTS, DEPTH, PATCH, HEADS = 4, 64, 12, 3, 2, 8, 2
PATCHES, HEAD = SIDE**2, 64
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
DEVIATION = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


class Weights(dict):
    """Random weights by name."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(7)

    def add(self, name, *shape, scale=None):
        scale = shape[-1] ** -0.5 if scale is None else scale
        self[name] = scale * torch.randn(shape, generator=self.generator)

    def linear(self, name, inputs, outputs, bias=True):
        self.add(f"{name}.weight", outputs, inputs)
        if bias:
            self.add(f"{name}.bias", outputs)

    def norm(self, name, dim):
        self.add(f"{name}.weight", dim, scale=0.3)
        self[f"{name}.weight"] += 1
        self.add(f"{name}.bias", dim)

    def gru(self, name):
        for kind in ("ih", "hh"):
            self.add(f"{name}.weight_{kind}", 3 * SLOT_DIM, SLOT_DIM)
            self.add(f"{name}.bias_{kind}", 3 * SLOT_DIM)

    def vit(self, prefix, scaled, side=SIDE):
        self.add(f"{prefix}cls_token", 1, 1, DIM)
        self.add(f"{prefix}pos_embed", 1, 1 + side**2, DIM, scale=0.5)
        self.add(f"{prefix}patch_embed.proj.weight", DIM, 3, PATCH, PATCH, scale=0.1)
        self.add(f"{prefix}patch_embed.proj.bias", DIM)
        for number in range(DEPTH):
            block = f"{prefix}blocks.{number}."
            self.norm(f"{block}norm1", DIM)
            self.norm(f"{block}norm2", DIM)
            self.linear(f"{block}attn.qkv", DIM, 3 * DIM)
            self.linear(f"{block}attn.proj", DIM, DIM)
            self.linear(f"{block}mlp.fc1", DIM, 4 * DIM)
            self.linear(f"{block}mlp.fc2", 4 * DIM, DIM)
            for name in ("ls1", "ls2") if scaled else ():
                self.add(f"{block}{name}.gamma", DIM, scale=0.5)
        self.norm(f"{prefix}norm", DIM)  # in the file, and not used

    def apply(self, name, values):
        return F.linear(values, self[f"{name}.weight"], self.get(f"{name}.bias"))

    def normalise(self, name, values, epsilon=1e-5):
        dim = values.shape[-1:]
        return F.layer_norm(values, dim, self[f"{name}.weight"], self[f"{name}.bias"], epsilon)


def attend(query, key, value, heads, scale, mask=None):
    """Attention by the definition, head by head; and its weights, averaged over heads."""
    size, outputs, every = query.shape[-1] // heads, [], []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        logits = query[..., part] @ key[..., part].transpose(-1, -2) * scale(size)
        if mask is not None:
            logits = logits.masked_fill(mask, -math.inf)
        every.append(logits.softmax(-1))
        outputs.append(every[-1] @ value[..., part])
    return torch.cat(outputs, -1), torch.stack(every).mean(0)


def usual(size):
    return size**-0.5


def vit(w, prefix, images, positions):
    scaled = f"{prefix}blocks.0.ls1.gamma" in w
    pixels = (images - MEAN) / DEVIATION
    kernel, bias = (w[f"{prefix}patch_embed.proj.{kind}"] for kind in ("weight", "bias"))
    patches = F.conv2d(pixels, kernel, bias, PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([w[f"{prefix}cls_token"].expand(len(images), 1, DIM), patches], 1) + positions
    for number in range(DEPTH):
        block = f"{prefix}blocks.{number}."
        gains = [w[f"{block}ls{one}.gamma"] if scaled else 1 for one in (1, 2)]
        query, key, value = w.apply(f"{block}attn.qkv", w.normalise(f"{block}norm1", x, 1e-6)).split(DIM, -1)
        seen, _ = attend(query, key, value, DIM // HEAD, usual)
        x = x + gains[0] * w.apply(f"{block}attn.proj", seen)
        hidden = F.gelu(w.apply(f"{block}mlp.fc1", w.normalise(f"{block}norm2", x, 1e-6)))
        x = x + gains[1] * w.apply(f"{block}mlp.fc2", hidden)
    return x[:, 1:]


def gru(w, name, inputs, state):
    gates = F.linear(inputs, w[f"{name}.weight_ih"], w[f"{name}.bias_ih"]).chunk(3, -1)
    old = F.linear(state, w[f"{name}.weight_hh"], w[f"{name}.bias_hh"]).chunk(3, -1)
    reset, update = (gates[0] + old[0]).sigmoid(), (gates[1] + old[1]).sigmoid()
    return (1 - update) * (gates[2] + reset * old[2]).tanh() + update * state


def group(w, features, slots, iterations, names, normalised_state, mlp):
    """Slot attention: slots and the attention [batch, slots, inputs] of the last iteration."""
    inputs = w.normalise(names["inputs"], features)
    key, value = w.apply(names["k"], inputs), w.apply(names["v"], inputs)
    for _ in range(iterations):
        normed = w.normalise(names["slots"], slots)
        attention = (w.apply(names["q"], normed) @ key.transpose(1, 2) * SLOT_DIM**-0.5).softmax(1)
        weights = attention + 1e-8
        updates = weights / weights.sum(-1, keepdim=True) @ value
        slots = gru(w, names["gru"], updates, normed if normalised_state else slots)
        if mlp:
            first, wide, narrow = mlp
            slots = slots + w.apply(narrow, w.apply(wide, w.normalise(first, slots)).relu())
    return slots, attention


def spot_weights(second=True, learned=True):
    w = Weights()
    w.vit("encoder.", scaled=False)
    if second:
        w.vit("second_encoder.", scaled=False)
    w.norm("slot_attn.layer_norm", DIM)
    w.linear("slot_attn.mlp.0", DIM, DIM)
    w.linear("slot_attn.mlp.2", DIM, DIM)
    if learned:
        w.add("slot_attn.slots_init.weight", SLOTS, SLOT_DIM)
    else:
        w.add("slot_attn.slot_mu", 1, 1, SLOT_DIM)
        w.add("slot_attn.slot_log_sigma", 1, 1, SLOT_DIM)
    inner = "slot_attn.slot_attention."
    for name, dim in (("norm_inputs", DIM), ("norm_slots", SLOT_DIM), ("norm_mlp", SLOT_DIM)):
        w.norm(inner + name, dim)
    for name, dim in (("project_q", SLOT_DIM), ("project_k", DIM), ("project_v", DIM)):
        w.linear(inner + name, dim, SLOT_DIM, bias=False)
    w.gru(f"{inner}gru")
    w.linear(f"{inner}mlp.0", SLOT_DIM, 4 * SLOT_DIM)
    w.linear(f"{inner}mlp.2", 4 * SLOT_DIM, SLOT_DIM)
    for name, dim in (("input_proj", DIM), ("slot_proj", SLOT_DIM)):
        w.linear(f"{name}.0", dim, DIM, bias=False)
        w.norm(f"{name}.1", DIM)
    w.add("bos_tokens", 9, 1, 1, DIM)
    for number in range(2):
        block = f"tf_dec.blocks.{number}."  # as older runs call it
        for name in ("self_attn_layer_norm", "encoder_decoder_attn_layer_norm", "ffn_layer_norm"):
            w.norm(block + name, DIM)
        for name in ("self_attn", "encoder_decoder_attn"):
            for part in "qkvo":
                w.linear(f"{block}{name}.proj_{part}", DIM, DIM, bias=False)
        w.linear(f"{block}ffn.0", DIM, 4 * DIM)
        w.linear(f"{block}ffn.2", 4 * DIM, DIM)
        w[f"{block}self_attn_mask"] = torch.ones(PATCHES, PATCHES, dtype=torch.bool).triu(1)
    w.norm("tf_dec.layer_norm", DIM)
    return w


def spot_orders():
    """The nine orders of SPOT, as its code lists them: by rows and columns from each corner, then a spiral
    from the middle that ends in the top right corner."""
    grid, up, down = np.arange(PATCHES).reshape(SIDE, SIDE), range(SIDE), range(SIDE - 1, -1, -1)
    by_columns = [
        [grid[row, column] for column in columns for row in rows]
        for columns, rows in ((up, up), (down, up), (down, down), (up, down))
    ]
    by_rows = [
        [grid[row, column] for row in rows for column in columns]
        for rows, columns in ((up, up), (up, down), (down, down), (down, up))
    ]
    inwards, left = [], grid
    while left.size:  # the last column from the top, then the grid without it, turned
        inwards += left[:, -1].tolist()
        left = np.rot90(left[:, :-1])
    orders = [by_rows[0], by_columns[0], by_columns[1], by_rows[1], by_columns[2], by_rows[2], by_columns[3]]
    return [*orders, by_rows[3], inwards[::-1]]


def spot(w, images, second=True):
    """Slots, decoder masks and features, averaged over all nine orders."""
    found = vit(w, "encoder.", images, w["encoder.pos_embed"])
    target = vit(w, "second_encoder.", images, w["second_encoder.pos_embed"]) if second else found
    hidden = w.apply("slot_attn.mlp.0", w.normalise("slot_attn.layer_norm", found)).relu()
    inner = "slot_attn.slot_attention."
    names = {part: f"{inner}project_{part}" for part in "qkv"}
    names |= {"inputs": f"{inner}norm_inputs", "slots": f"{inner}norm_slots", "gru": f"{inner}gru"}
    initial = w["slot_attn.slots_init.weight"].expand(len(images), -1, -1)
    mlp = [inner + name for name in ("norm_mlp", "mlp.0", "mlp.2")]
    slots, _ = group(w, w.apply("slot_attn.mlp.2", hidden), initial, 3, names, False, mlp)
    memory = w.normalise("slot_proj.1", w.apply("slot_proj.0", slots))
    future = torch.ones(PATCHES, PATCHES, dtype=torch.bool).triu(1)
    features, masks = [], []
    for number, order in enumerate(spot_orders()):
        start = w["bos_tokens"][number].expand(len(images), 1, DIM)
        x = torch.cat([start, target[:, order][:, :-1]], 1)
        x = w.normalise("input_proj.1", w.apply("input_proj.0", x))
        for depth in range(2):
            block = f"tf_dec.blocks.{depth}."
            normed = w.normalise(f"{block}self_attn_layer_norm", x)
            x = normed if depth == 0 else x
            parts = [w.apply(f"{block}self_attn.proj_{part}", normed) for part in "qkv"]
            x = x + w.apply(f"{block}self_attn.proj_o", attend(*parts, HEADS, usual, future)[0])
            name = f"{block}encoder_decoder_attn"
            query = w.apply(f"{name}.proj_q", w.normalise(f"{name}_layer_norm", x))
            seen, attention = attend(
                query, *(w.apply(f"{name}.proj_{part}", memory) for part in "kv"), HEADS, usual
            )
            x = x + w.apply(f"{name}.proj_o", seen)
            normed = w.normalise(f"{block}ffn_layer_norm", x)
            x = x + w.apply(f"{block}ffn.2", w.apply(f"{block}ffn.0", normed).relu())
        back = np.argsort(order)
        features.append(w.normalise("tf_dec.layer_norm", x)[:, back])
        masks.append(attention[:, back])
    return slots, torch.stack(masks).mean(0).transpose(1, 2), torch.stack(features).mean(0), target


def video_weights(decoder, learned, mlp, side=SIDE):
    w = Weights()
    w.vit("encoder.module.backbone.model.", scaled=decoder == "mlp", side=side)
    output = "encoder.module.output_transform.layers."
    w.norm(f"{output}0", DIM)
    w.linear(f"{output}1", DIM, 2 * DIM)
    w.linear(f"{output}3", 2 * DIM, SLOT_DIM)
    if learned:
        w.add("initializer.slots", 1, SLOTS, SLOT_DIM)
    else:
        w.add("initializer.mean", 1, 1, SLOT_DIM)
        w.add("initializer.log_std", 1, 1, SLOT_DIM)
    inner = "processor.module.corrector."
    w.norm(f"{inner}norm_features", SLOT_DIM)
    w.norm(f"{inner}norm_slots", SLOT_DIM)
    for name in "qkv":
        w.linear(f"{inner}to_{name}", SLOT_DIM, SLOT_DIM, bias=False)
    w.gru(f"{inner}gru")
    if mlp:
        w.norm(f"{inner}mlp.layers.0", SLOT_DIM)
        w.linear(f"{inner}mlp.layers.1", SLOT_DIM, 4 * SLOT_DIM)
        w.linear(f"{inner}mlp.layers.3", 4 * SLOT_DIM, SLOT_DIM)
    add_block(w, "processor.module.predictor.blocks.0")
    root = "decoder.module."
    if decoder == "mlp":
        w.add(f"{root}pos_emb", 1, 1, PATCHES, SLOT_DIM)
        for number, (one, other) in enumerate([(SLOT_DIM, 20), (20, 20), (20, DIM + 1)]):
            w.linear(f"{root}mlp.layers.{2 * number}", one, other)
    else:
        w.add(f"{root}pos_emb", 1, PATCHES, SLOT_DIM)
        for name in ("norm_k", "norm_q", "norm_memory"):
            w.norm(root + name, SLOT_DIM)
        for name in ("to_q", "to_k"):
            w.linear(root + name, SLOT_DIM, SLOT_DIM, bias=False)
        for number in range(2):
            add_block(w, f"{root}allocator.blocks.{number}")
        for number, (one, other) in enumerate([(SLOT_DIM, 20), (20, 20)]):
            w.linear(f"{root}renderer.layers.{2 * number}", one, other)
        w.linear(f"{root}output_transform", 20, DIM + PATCHES)
    return w


def add_block(w, name):
    w.norm(f"{name}.norm1", SLOT_DIM)
    w.norm(f"{name}.norm2", SLOT_DIM)
    w.linear(f"{name}.self_attn.qkv", SLOT_DIM, 3 * SLOT_DIM)
    w.linear(f"{name}.self_attn.out_proj", SLOT_DIM, SLOT_DIM)
    w.linear(f"{name}.linear1", SLOT_DIM, 4 * SLOT_DIM)
    w.linear(f"{name}.linear2", 4 * SLOT_DIM, SLOT_DIM)


def block(w, name, x, memory=None):
    """A transformer block of theirs: queries divided by size ** -0.5, that is, multiplied by its root."""
    normed = w.normalise(f"{name}.norm1", x)
    weight, bias = w[f"{name}.self_attn.qkv.weight"], w[f"{name}.self_attn.qkv.bias"]
    sources = [normed, *[normed if memory is None else memory] * 2]
    parts = [
        F.linear(source, one, other)
        for source, one, other in zip(sources, weight.chunk(3), bias.chunk(3), strict=True)
    ]
    seen, _ = attend(*parts, HEADS, lambda size: size**0.5)
    x = x + w.apply(f"{name}.self_attn.out_proj", seen)
    normed = w.normalise(f"{name}.norm2", x)
    return x + w.apply(f"{name}.linear2", w.apply(f"{name}.linear1", normed).relu())


def video(w, frames, initial, positions, mixer, mlp):
    """Slots, masks, and outputs of the decoder, for each frame of [batch, time, 3, height, width]."""
    inner, root = "processor.module.corrector.", "decoder.module."
    names = {part: f"{inner}to_{part}" for part in "qkv"}
    names |= {"inputs": f"{inner}norm_features", "slots": f"{inner}norm_slots", "gru": f"{inner}gru"}
    parts = [f"{inner}mlp.layers.{number}" for number in (0, 1, 3)] if mlp else None
    slots, outputs = initial, []
    output = "encoder.module.output_transform.layers."
    for number, frame in enumerate(frames.unbind(1)):
        features = vit(w, "encoder.module.backbone.model.", frame, positions)
        hidden = w.apply(f"{output}1", w.normalise(f"{output}0", features)).relu()
        inputs = w.apply(f"{output}3", hidden)
        slots, _ = group(w, inputs, slots, 3 if number == 0 else 2, names, True, parts)
        if mixer:
            places = w[f"{root}pos_emb"].expand(len(slots), -1, -1)
            queries, memory = places, w.normalise(f"{root}norm_memory", slots)
            for depth in range(2):
                queries = block(w, f"{root}allocator.blocks.{depth}", queries, memory)
            query = w.apply(f"{root}to_q", w.normalise(f"{root}norm_q", queries))
            key = w.apply(f"{root}to_k", w.normalise(f"{root}norm_k", slots))
            masks = (query @ key.transpose(1, 2) * SLOT_DIM**-0.5).softmax(-1)
            x = masks @ slots + places
            for depth in range(2):
                x = w.apply(f"{root}renderer.layers.{2 * depth}", x).relu()
            decoded, masks = w.apply(f"{root}output_transform", x), masks.transpose(1, 2)
        else:
            x = slots[:, :, None] + w[f"{root}pos_emb"]
            for depth in range(3):
                x = w.apply(f"{root}mlp.layers.{2 * depth}", x)
                x = x.relu() if depth < 2 else x
            masks = x[..., -1:].softmax(1)
            decoded, masks = (masks * x[..., :-1]).sum(1), masks[..., 0]
        outputs.append((slots, masks, decoded))
        slots = block(w, "processor.module.predictor.blocks.0", slots)
    return [torch.stack(part, 1) for part in zip(*outputs, strict=True)]


def stored(tmp_path, weights, kind="state_dict"):
    file = tmp_path / "theirs.ckpt"
    torch.save({kind: dict(weights), "epoch": 3, "hyper_parameters": {"lr": 4e-4}}, file)
    return file


def close(one, other):
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("second", [True, False])
def test_spot(tmp_path, second):
    weights = spot_weights(second)
    out = oh.convert(stored(tmp_path, weights, "model"), "spot", tmp_path / "ours.safetensors", heads=HEADS)
    model = oh.load(out)
    images = torch.rand(2, 3, SIDE * PATCH, SIDE * PATCH)
    slots, masks, features, target = spot(weights, images, second)
    found = model.segment(images)
    close(found.slots, slots)
    close(model.backbone(images).flatten(1, 2), target)
    decoded = model.decode(found.slots, model.backbone(images), -1)
    close(decoded.features.flatten(1, 2), features)
    close(decoded.masks.flatten(2), masks)
    assert found.masks.shape == (2, SLOTS, SIDE * PATCH, SIDE * PATCH)


@pytest.mark.parametrize("layout", ["videosaur", "slotcontrast"])
def test_video(tmp_path, layout):
    mixer = layout == "videosaur"
    side = SIDE if mixer else SIDE + 1  # positions of another grid are interpolated
    weights = video_weights("mixer" if mixer else "mlp", learned=not mixer, mlp=not mixer, side=side)
    file = tmp_path / "theirs.safetensors"
    save_file(weights, file)
    options = ["--heads", str(HEADS), *(["--num-slots", str(SLOTS)] if mixer else [])]
    out = tmp_path / "ours.safetensors"
    assert main(["convert", str(file), "--layout", layout, "--out", str(out), *options]) == 0
    model = oh.load(out)

    positions = weights["encoder.module.backbone.model.pos_embed"]
    if not mixer:
        grid = positions[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, (SIDE, SIDE), mode="bicubic", antialias=True)
        positions = torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], 1)
    noise = torch.randn(2, SLOTS, SLOT_DIM)
    initial = (
        weights["initializer.mean"] + weights["initializer.log_std"].exp() * noise
        if mixer
        else weights["initializer.slots"].expand(2, -1, -1)
    )
    frames = torch.rand(2, 3, 3, SIDE * PATCH, SIDE * PATCH)
    slots, masks, decoded = video(weights, frames, initial, positions, mixer, mlp=not mixer)
    found = model.clip(model.features_of(frames), noise=noise)
    close(found.slots, slots)
    close(found.masks.flatten(3), masks)
    close(found.features.flatten(2, 3), decoded[..., :DIM])
    if mixer:
        close(found.similarity, decoded[..., DIM:])
    state = None
    for number, frame in enumerate(frames.unbind(1)):  # a stream gives the same as the clip
        output, state = model.step(frame, state, noise=noise)
        close(output.slots, slots[:, number])


def test_the_stored_backbone_is_part_of_the_file(tmp_path):
    weights = video_weights("mlp", True, True)
    out = oh.convert(stored(tmp_path, weights), "slotcontrast", tmp_path / "ours.safetensors", heads=HEADS)
    model = oh.load(out)
    again = oh.load(oh.save(model, model.recipe, tmp_path / "again.safetensors"))
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    one, other = (oh.predict(kind, image)[0].labels for kind in (model, again))
    assert np.array_equal(one, other) and one.shape == (40, 50)
    assert not any(weight.requires_grad for weight in model.backbone.parameters())


class Harmful:
    def __reduce__(self):
        return print, ("a pickle was run",)


def changed(weights, name, value):
    return {key: tensor for key, tensor in weights.items() if key != name} | (
        {} if value is None else {name: value}
    )


def test_what_does_not_fit_is_told_in_one_line(tmp_path, capsys):
    good = video_weights("mlp", True, True)
    key = "processor.module.corrector.to_k.weight"
    cases = [
        ("spot", good, "has no bos_tokens; its names are those of 'slotcontrast'"),
        ("videosaur", good, "has no decoder.renderer.*those of 'slotcontrast'"),
        ("slotcontrast", changed(good, key, None), r"missing: processor.corrector.to_k.weight$"),
        ("slotcontrast", changed(good, "more.weight", torch.ones(2)), "unexpected: more.weight$"),
        ("slotcontrast", changed(good, key, torch.ones(3, 5)), r"project_k.weight is \[3, 5\], expected"),
        ("slotcontrast", {"note": "hello"}, "holds no weights"),
        ("slotcontrast", good | {"harm": Harmful()}, "more than tensors and plain values"),
        ("slotcontrst", good, "did you mean slotcontrast"),
        ("slotcontrast", {"x": torch.zeros(1).expand(9**9, 9**9)}, "'x' repeats its values"),
        ("slotcontrast", {"x": torch.eye(3).to_sparse()}, "'x' is no plain tensor"),
        ("videosaur", {"decoder.renderer.layers.0.weight": torch.tensor(1.0)}, "of another shape"),
    ]
    for layout, weights, match in cases:
        out = tmp_path / "ours.safetensors"
        with pytest.raises(ValueError, match=match) as caught:
            oh.convert(stored(tmp_path, weights), layout, out, heads=HEADS)
        assert "\n" not in str(caught.value) and not out.exists()
    save_file({"a": torch.ones(3)}, tmp_path / "mine.safetensors")
    for checkpoint in ("mine.safetensors", "another.ckpt"):
        with pytest.raises(ValueError, match="mine.safetensors exists and is not replaced"):
            oh.convert(tmp_path / checkpoint, "spot", tmp_path / "mine.safetensors")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Harmful()))
    for name in ("nowhere.ckpt", "text.ckpt", "plain.pkl"):
        with pytest.raises(ValueError, match=name) as caught:
            oh.convert(tmp_path / name, "spot", tmp_path / "ours.safetensors")
        assert "\n" not in str(caught.value)
    assert "a pickle was run" not in capsys.readouterr().out
