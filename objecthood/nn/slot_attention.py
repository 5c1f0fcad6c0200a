"""Slot Attention: slots compete for inputs in iterative attention, and each binds to one object.

Locatello et al., "Object-Centric Learning with Slot Attention", NeurIPS 2020 (arXiv 2006.15055), algorithm 1.
With keys k and values v of the normalised inputs and queries q of the normalised slots, one iteration is

    attention = softmax over slots of k q^T / sqrt(slot_dim)
    weights   = (attention + epsilon) / (sum of attention + epsilon over inputs)
    slots     = GRU(weights^T v, slots);   slots = slots + MLP(norm(slots))

Keys and values are linear in the inputs and are never materialised: (x K) q = x (K q), and a mean of values
is the value of the mean. Results are equal up to rounding, with less time and memory for few slots.

Numerics, initialisation and names are those of the TensorFlow reference implementation, and are tested
against its output. Differences of other public versions from the paper:

| detail                       | elsewhere                                        | here                 |
|------------------------------|--------------------------------------------------|----------------------|
| initial mean and deviation   | untrained buffers (untitled-ai); drawn from      | trained, uniform in  |
|                              | N(0, 1), or in +-0.217 (PyTorch's Glorot)        | +-0.304 (Keras')     |
| gradient to them             | blocked (early addtt, evelinehong, lucidrains)   | flows                |
| state of the GRU             | the normalised slots (VideoSAUR, SlotContrast)   | the slots            |
| bias in queries, keys, values| present (lucidrains)                             | none                 |
| epsilon of the weighted mean | 1e-5, in the denominator (Genera1Z)              | 1e-8, before it      |
| epsilon of layer norms       | 1e-5 (PyTorch's default)                         | 1e-3 (Keras')        |
| initial weights and biases   | uniform (PyTorch's default)                      | Glorot, orthogonal,  |
|                              |                                                  | zero (Keras')        |
| 16-bit training              | softmax over slots rounded to 16 bits            | float32 throughout   |
| returned attention           | none, or the last iteration's                    | every iteration's    |

Differences from the paper: none by default. `gradient`, `attention_bias` and `normalized_state` are later
variants. `update`, `mlp`, `normalize_inputs`, `normalize_slots`, `competition` and `aggregation` are
ablations (docs/ablations.md).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from objecthood.nn.initialization import glorot
from objecthood.nn.precision import at_least_float32, in_float32, wide, without_autocast
from objecthood.nn.slot_module import AttentionBias, SlotAttentionOutput, SlotModule, check_call
from objecthood.runtime import renamed

Gradient = Literal["full", "implicit", "bilevel"]
Update = Literal["gru", "replace"]
Competition = Literal["slots", "inputs"]
Aggregation = Literal["mean", "sum"]


class SlotAttention(SlotModule):
    """Group a set of inputs into slots.

    Args:
        input_dim: size of an input vector.
        slot_dim: size of a slot vector, and of queries, keys and values.
        iterations: default number of iterations (paper: 3).
        hidden_dim: width of the residual MLP (paper: 128).
        gradient: through all iterations ("full", the paper); through the last only ("implicit": the
            first-order term of the implicit function theorem, Chang et al. 2022, arXiv 2207.00787; initial
            slots, and what predicts them, are not trained); or through the last and straight through to the
            initial slots ("bilevel": Jia et al. 2023, BO-QSA, arXiv 2210.08990).
        attention_bias: bias of the logits (see `nn.attention_bias`), a function of the detached attention
            [batch, slots, inputs] of an iteration and of its content-only attention.
        bias_before_attention: compute the bias of an iteration, the first included, from its own logits
            instead of the previous iteration's attention; fewer iterations are needed.
        epsilon: added to the attention before the weighted mean (reference: 1e-8).
        norm_epsilon: epsilon of the three layer norms (reference, Keras' default: 1e-3).
        update: "gru" (the paper), or "replace": the updates become the slots, without a residual connection.
        mlp: whether a layer norm and residual MLP follow the update (paper: yes).
        normalize_inputs: whether inputs pass a layer norm (paper: yes).
        normalize_slots: whether slots pass a layer norm before the queries (paper: yes).
        competition: axis of the softmax: "slots" (the paper), or "inputs", as in standard cross-attention,
            which excludes an `attention_bias`.
        aggregation: weighted "mean" of the values (the paper), or weighted "sum", without `epsilon`.
        normalized_state: whether the GRU's state is the normalised slots (VideoSAUR, SlotContrast), not the
            slots (the paper).

    Raises:
        ValueError: a value is not allowed, or `attention_bias` is combined with softmax over inputs.

    Example:
        >>> import torch
        >>> from objecthood.nn import GaussianSlots, SlotAttention
        >>> initial, group = GaussianSlots(num_slots=7, dim=64), SlotAttention(input_dim=384, slot_dim=64)
        >>> features = torch.randn(2, 196, 384)
        >>> slots, attention = group(features, initial(len(features)))
        >>> slots.shape, attention.shape
        (torch.Size([2, 7, 64]), torch.Size([2, 3, 7, 196]))
    """

    state_is_slots = True
    """Whether iterations update the slots themselves, so that `step` maps slots to slots."""

    @renamed.arguments
    def __init__(
        self,
        input_dim: int,
        slot_dim: int,
        iterations: int = 3,
        hidden_dim: int = 128,
        *,
        gradient: Gradient = "full",
        attention_bias: AttentionBias | None = None,
        bias_before_attention: bool = False,
        epsilon: float = 1e-8,
        norm_epsilon: float = 1e-3,
        update: Update = "gru",
        mlp: bool = True,
        normalize_inputs: bool = True,
        normalize_slots: bool = True,
        competition: Competition = "slots",
        aggregation: Aggregation = "mean",
        normalized_state: bool = False,
    ):
        super().__init__()
        for name, value, allowed in (
            ("gradient", gradient, get_args(Gradient)),
            ("update", update, get_args(Update)),
            ("competition", competition, get_args(Competition)),
            ("aggregation", aggregation, get_args(Aggregation)),
        ):
            if value not in allowed:
                raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(allowed)}")
        if attention_bias is not None and competition != "slots":
            raise ValueError(
                f"`competition` (={competition!r}) must be 'slots' with an `attention_bias`, which needs a "
                "softmax over slots; remove one of the two"
            )
        self.input_dim, self.slot_dim = input_dim, slot_dim
        self.iterations, self.gradient, self.epsilon = iterations, gradient, epsilon
        self.attention_bias, self.bias_before_attention = attention_bias, bias_before_attention
        self.competition, self.aggregation = competition, aggregation
        self.normalized_state = normalized_state
        self.norm_inputs = nn.LayerNorm(input_dim, eps=norm_epsilon) if normalize_inputs else nn.Identity()
        self.norm_slots = nn.LayerNorm(slot_dim, eps=norm_epsilon) if normalize_slots else nn.Identity()
        self.norm_mlp = nn.LayerNorm(slot_dim, eps=norm_epsilon) if mlp else None
        self.project_q = glorot(nn.Linear(slot_dim, slot_dim, bias=False))
        self.project_k = glorot(nn.Linear(input_dim, slot_dim, bias=False))
        self.project_v = glorot(nn.Linear(input_dim, slot_dim, bias=False))
        self.gru = keras_gru(slot_dim) if update == "gru" else None
        self.mlp = (
            nn.Sequential(
                glorot(nn.Linear(slot_dim, hidden_dim)), nn.ReLU(), glorot(nn.Linear(hidden_dim, slot_dim))
            )
            if mlp
            else None
        )

    def forward(
        self,
        inputs: Float[Tensor, "batch inputs input_dim"],
        slots: Float[Tensor, "batch slots slot_dim"],
        iterations: int | None = None,
        mask: Bool[Tensor, "batch inputs"] | None = None,
        previous: Float[Tensor, "batch slots inputs"] | None = None,
    ) -> SlotAttentionOutput:
        """Updated slots, and the attention of every iteration.

        Args:
            inputs: features, in any order.
            slots: initial slots.
            iterations: number of iterations, at least 1 (default: `self.iterations`).
            mask: True at real inputs, False at padding, which may hold any value, NaN included. An image
                whose inputs are all masked gets attention 0 and updates 0; other images are unaffected.
            previous: attention of the same slots in the previous frame; the `attention_bias`, if any, then
                acts on the first iteration as well.

        Computed in float32 (float64 with float64 weights). With 16-bit weights (`.bfloat16()`, `.half()`)
        slots are returned in the dtype of the weights, attention in float32.

        Raises:
            ValueError: shapes do not match, or a tensor is float64 and the weights are not.
        """
        iterations = self.iterations if iterations is None else iterations
        weights = self.project_q.weight.dtype
        check_call(self, weights, inputs, slots, iterations, mask)
        if mask is not None:
            inputs = inputs.masked_fill(~mask[..., None], 0)  # NaN * 0 is NaN, in the gradient as well
        if weights != torch.float32:
            inputs = inputs.to(wide(weights))
        inputs = self._apply_layer(self.norm_inputs, inputs)
        with without_autocast(inputs):
            inputs = at_least_float32(inputs)
            slots = self.start(slots.to(wide(weights)), previous)
            initial, bias, attentions = slots, None, []
            if self.attention_bias is not None and previous is not None:
                bias = self.attention_bias(previous.detach(), self.resemblance(slots, inputs))
            for iteration in range(iterations):
                is_last = iteration == iterations - 1
                if is_last and self.gradient != "full":
                    slots = slots.detach()
                    if self.gradient == "bilevel":
                        slots = slots + (initial - initial.detach())  # straight-through: adds exactly 0
                if self.attention_bias is not None and self.bias_before_attention:
                    bias = self.early_bias(slots, inputs, bias)
                query_slots = slots
                with torch.set_grad_enabled(torch.is_grad_enabled() and (is_last or self.gradient == "full")):
                    slots, attention = self.step(slots, self.noisy(inputs, iteration, iterations), bias, mask)
                attentions.append(attention)
                if self.attention_bias is not None and not self.bias_before_attention and not is_last:
                    content = attention if bias is None else self.resemblance(query_slots, inputs)
                    bias = self.attention_bias(attention.detach(), content.detach())
            slots = self.finish(slots)
        return SlotAttentionOutput(slots.to(weights), torch.stack(attentions, dim=1))

    def start(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        previous: Float[Tensor, "batch slots inputs"] | None = None,
    ) -> Float[Tensor, "batch slots state_dim"]:
        """What the iterations update: the slots themselves. Subclasses may add to them."""
        return slots

    def noisy(self, inputs: Tensor, iteration: int, iterations: int) -> Tensor:
        """The normalised `inputs` that an iteration sees: as they are. Subclasses may add noise."""
        return inputs

    def finish(self, slots: Float[Tensor, "batch slots state_dim"]) -> Float[Tensor, "batch slots slot_dim"]:
        """Slots from what the iterations updated."""
        return slots

    def step(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        inputs: Float[Tensor, "batch inputs input_dim"],
        bias: Float[Tensor, "batch slots inputs"] | None = None,
        mask: Bool[Tensor, "batch inputs"] | None = None,
    ) -> tuple[Float[Tensor, "batch slots slot_dim"], Float[Tensor, "batch slots inputs"]]:
        """One iteration over normalised `inputs`: updated slots and attention."""
        logits = self.logits(slots, inputs)
        attention = self.compete(logits if bias is None else logits + bias, mask)
        gathered = self.aggregate(attention, inputs, mask)
        return self.update(slots, self._apply_layer(self.project_v, gathered)), attention

    def logits(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        inputs: Float[Tensor, "batch inputs input_dim"],
    ) -> Float[Tensor, "batch slots inputs"]:
        """Scaled products of queries and keys of normalised `inputs`."""
        queries = self.queries(slots)
        return queries @ inputs.to(queries.dtype).transpose(1, 2)

    def update(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        updates: Float[Tensor, "batch slots slot_dim"],
    ) -> Float[Tensor, "batch slots slot_dim"]:
        """Slots after GRU and residual MLP."""
        if self.gru is None:
            slots = updates
        else:
            if self.normalized_state:
                slots = self._apply_layer(self.norm_slots, slots)
            state = self._apply_layer(self.gru, updates.flatten(0, 1), slots.flatten(0, 1))
            slots = state.view_as(slots)
        if self.mlp is not None:
            assert self.norm_mlp is not None  # set with `mlp`
            slots = slots + self._apply_layer(self.mlp, self._apply_layer(self.norm_mlp, slots))
        return slots

    def compete(
        self, logits: Float[Tensor, "batch slots inputs"], mask: Bool[Tensor, "batch inputs"] | None = None
    ) -> Float[Tensor, "batch slots inputs"]:
        """The softmax of `logits` over slots or inputs; 0 at padded inputs."""
        if self.competition == "inputs":
            if mask is None:
                return logits.softmax(dim=-1)
            # Not -inf: the softmax of a row of -inf is NaN.
            attention = logits.masked_fill(~mask[:, None], torch.finfo(logits.dtype).min).softmax(dim=-1)
            return attention * mask[:, None]
        attention = logits.softmax(dim=1)
        return attention if mask is None else attention * mask[:, None]

    def aggregate(
        self,
        attention: Float[Tensor, "batch slots inputs"],
        inputs: Float[Tensor, "batch inputs input_dim"],
        mask: Bool[Tensor, "batch inputs"] | None = None,
    ) -> Float[Tensor, "batch slots input_dim"]:
        """The mean or sum of `inputs`, weighted by `attention`."""
        if self.aggregation == "sum":
            return attention @ inputs
        weights = attention + self.epsilon
        if mask is None:
            return (weights @ inputs) / weights.sum(dim=-1, keepdim=True)
        weights = weights * mask[:, None]
        is_empty = ~mask.any(dim=1)[:, None, None]
        return (weights @ inputs) / weights.sum(dim=-1, keepdim=True).masked_fill(is_empty, 1)

    def queries(self, slots: Float[Tensor, "batch slots slot_dim"]) -> Float[Tensor, "batch slots input_dim"]:
        """Queries in the space of normalised inputs, divided by the square root of `slot_dim`."""
        queries = self._apply_layer(self.project_q, self._apply_layer(self.norm_slots, slots))
        return (queries * self.slot_dim**-0.5) @ at_least_float32(self.project_k.weight)

    def _apply_layer(self, layer: nn.Module, *inputs: Tensor) -> Tensor:
        """The output of `layer`, computed in float32 where the weights have 16 bits."""
        is_narrow = self.project_q.weight.dtype != wide(self.project_q.weight.dtype)
        return in_float32(layer, *inputs) if is_narrow else layer(*inputs)

    @torch.no_grad()
    def resemblance(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        inputs: Float[Tensor, "batch inputs input_dim"],
    ) -> Float[Tensor, "batch slots inputs"]:
        """Content-only attention: that of the logits without the bias."""
        return self.attention_of(self.logits(slots, inputs))

    @torch.no_grad()
    def early_bias(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        inputs: Float[Tensor, "batch inputs input_dim"],
        bias: Float[Tensor, "batch slots inputs"] | None,
    ) -> Float[Tensor, "batch slots inputs"]:
        """The bias of an iteration over `slots`; `bias` is that of the previous iteration."""
        assert self.attention_bias is not None
        logits = self.logits(slots, inputs)
        content = self.attention_of(logits)
        return self.attention_bias(content if bias is None else self.attention_of(logits, bias), content)

    def attention_of(
        self,
        logits: Float[Tensor, "batch slots inputs"],
        bias: Float[Tensor, "batch slots inputs"] | None = None,
    ) -> Float[Tensor, "batch slots inputs"]:
        """The softmax over slots of the logits, with the bias if there is one."""
        return (logits if bias is None else logits + bias).softmax(dim=1)


def keras_gru(dim: int) -> nn.GRUCell:
    """A GRU of input and state size `dim` with Keras' initialisation: Glorot, orthogonal and 0."""
    gru = nn.GRUCell(dim, dim)
    nn.init.xavier_uniform_(gru.weight_ih)
    nn.init.orthogonal_(gru.weight_hh)
    nn.init.zeros_(gru.bias_ih)
    nn.init.zeros_(gru.bias_hh)
    return gru
