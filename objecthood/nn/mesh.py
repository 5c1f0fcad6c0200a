"""MESH: attention is an optimal transport plan between inputs and slots whose entropy is minimised.

Zhang, Zhang, Lacoste-Julien, Burghouts and Snoek 2023, "Unlocking Slot Attention by Changing Optimal
Transport Costs" (arXiv 2301.13197). With keys k_i and values v_i of the inputs, queries q_j of the slots and
cost C_ij = |k_i - q_j|, one iteration is

    a = K softmax over inputs of (w_a x_i),   b = K softmax over slots of (w_b norm(slot_j))
    4 times:  C = C - step * g / |g|,   g = gradient of the entropy of sinkhorn(C, a, b)
    T = sinkhorn(C, a, b),   updates = T^T v

and GRU and MLP as in slot attention, for K slots. `sinkhorn` is 5 iterations (Cuturi 2013, arXiv 1306.0895)
of the potentials u and v, which go on from those of the step before:

    u = log a - logsumexp over slots of (v - C),   v = log b - logsumexp over inputs of (u - C)
    T = exp(u + v - C)

As in the authors' code, g is a constant in the backward pass, and the gradient passes through C, u and v.
g is computed in closed form, by the chain rule through the 5 iterations, so that the module also runs
without autograd and exports.

The returned attention is T divided by its sum over slots, so that it sums to 1 over slots as in other
modules. The sum itself is a: how much of an input is transported.

Differences from the paper: `SlotAttention` provides norms, initialisation and `gradient`. Layers of a and b
have no bias, which their softmax cancels. Noise (1e-3) is added to C in training only, so evaluation is a
function of the image. Without noise, g of identical slots is 0 up to rounding; steps of a fixed length part
them by rounding errors, which differ between machines. An `attention_bias` is subtracted from C.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from objecthood.nn.initialization import glorot
from objecthood.nn.randomness import per_image
from objecthood.nn.slot_attention import SlotAttention

_NONE = -1e4
"""Logarithm of the share of a padded input: exp(-1e4) is 0 in every precision, and the gradient is finite."""


class MESH(SlotAttention):
    """Group a set of inputs into slots by optimal transport.

    Args:
        input_dim, slot_dim, iterations, hidden_dim: as in `SlotAttention`.
        steps: number of steps that lower the entropy; 0: entropy-regularised transport.
        step_size: length of a step, in units of the cost.
        sinkhorn_iterations: iterations of the potentials per transport plan.
        noise_scale: deviation of the noise added to the cost in training.
        options: further arguments of `SlotAttention`; `competition` and `aggregation` have no effect.

    Example:
        >>> import torch
        >>> group = MESH(input_dim=48, slot_dim=64).eval()
        >>> slots, attention = group(torch.randn(2, 49, 48), torch.randn(2, 5, 64))
        >>> slots.shape, attention.shape
        (torch.Size([2, 5, 64]), torch.Size([2, 3, 5, 49]))
    """

    def __init__(
        self,
        input_dim: int,
        slot_dim: int,
        iterations: int = 3,
        hidden_dim: int = 128,
        *,
        steps: int = 4,
        step_size: float = 5.0,
        sinkhorn_iterations: int = 5,
        noise_scale: float = 1e-3,
        **options: Any,
    ):
        super().__init__(input_dim, slot_dim, iterations, hidden_dim, **options)
        self.steps, self.step_size, self.noise_scale = steps, step_size, noise_scale
        self.sinkhorn_iterations = sinkhorn_iterations
        self.share_of_input = glorot(nn.Linear(input_dim, 1, bias=False))
        self.share_of_slot = glorot(nn.Linear(slot_dim, 1, bias=False))

    def step(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        inputs: Float[Tensor, "batch inputs input_dim"],
        bias: Float[Tensor, "batch slots inputs"] | None = None,
        mask: Bool[Tensor, "batch inputs"] | None = None,
    ) -> tuple[Float[Tensor, "batch slots slot_dim"], Float[Tensor, "batch slots inputs"]]:
        """As `SlotAttention.step`."""
        logits = self.logits(slots, inputs)
        logits = logits if bias is None else logits + bias
        if self.training and self.noise_scale:
            shape = logits.shape[1:]
            noise = per_image(lambda size: logits.new_empty((size, *shape)).normal_(), len(logits))
            logits = logits - self.noise_scale * noise
        # The logarithm of the number of slots, as an operation: an export keeps the number open.
        number = torch.zeros_like(slots[..., :1]).logsumexp(dim=1, keepdim=True)
        of_inputs = self._apply_layer(self.share_of_input, inputs).transpose(1, 2)
        if mask is not None:
            of_inputs = of_inputs.masked_fill(~mask[:, None], _NONE)
        of_inputs = of_inputs.log_softmax(dim=2) + number
        if mask is not None:  # an image whose inputs are all masked, too, has none to transport
            of_inputs = of_inputs.masked_fill(~mask[:, None], _NONE)
        of_slots = self._apply_layer(self.share_of_slot, self._apply_layer(self.norm_slots, slots))
        log_plan = self.transport(logits, of_inputs, of_slots.log_softmax(dim=1) + number)
        plan, attention = log_plan.exp(), log_plan.softmax(dim=1)
        if mask is not None:
            plan, attention = plan * mask[:, None], attention * mask[:, None]
        return self.update(slots, self._apply_layer(self.project_v, plan @ inputs)), attention

    def logits(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        inputs: Float[Tensor, "batch inputs input_dim"],
    ) -> Float[Tensor, "batch slots inputs"]:
        """The negative cost: minus the distance of queries and keys."""
        queries = self._apply_layer(self.project_q, self._apply_layer(self.norm_slots, slots))
        keys = self._apply_layer(self.project_k, inputs.to(queries.dtype))
        products = queries @ keys.transpose(1, 2)
        squares = queries.square().sum(dim=2)[:, :, None] + keys.square().sum(dim=2)[:, None]
        return -(squares - 2 * products).clamp_min(1e-6).sqrt()  # the root has no finite gradient at 0

    def transport(
        self,
        logits: Float[Tensor, "batch slots inputs"],
        of_inputs: Float[Tensor, "batch 1 inputs"],
        of_slots: Float[Tensor, "batch slots 1"],
    ) -> Float[Tensor, "batch slots inputs"]:
        """Logarithm of the transport plan of lowered entropy, for logarithms of the shares."""
        v = torch.zeros_like(of_slots)
        for _ in range(self.steps):
            start = v
            u, v = self.sinkhorn(logits, of_inputs, of_slots, v)
            gradient = self.entropy_gradient(logits.detach(), of_inputs.detach(), of_slots.detach(), start)
            length = gradient.square().sum(dim=(1, 2), keepdim=True).sqrt().clamp_min(1e-12)
            logits = logits - self.step_size * gradient / length
        u, v = self.sinkhorn(logits, of_inputs, of_slots, v)
        return logits + u + v

    def sinkhorn(
        self, logits: Tensor, of_inputs: Tensor, of_slots: Tensor, v: Tensor
    ) -> tuple[Float[Tensor, "batch 1 inputs"], Float[Tensor, "batch slots 1"]]:
        """The potentials u and v, from initial `v`."""
        for _ in range(self.sinkhorn_iterations):
            u = of_inputs - (logits + v).logsumexp(dim=1, keepdim=True)
            v = of_slots - (logits + u).logsumexp(dim=2, keepdim=True)
        return u, v

    @torch.no_grad()
    def entropy_gradient(
        self, logits: Tensor, of_inputs: Tensor, of_slots: Tensor, v: Tensor
    ) -> Float[Tensor, "batch slots inputs"]:
        """Gradient of the entropy of the plan, sum of -T log T, with respect to `logits`.

        `v` is the initial potential, a constant.
        """
        trace = []
        for _ in range(self.sinkhorn_iterations):
            by_slot = (logits + v).softmax(dim=1)  # derivative of the logsumexp in u
            u = of_inputs - (logits + v).logsumexp(dim=1, keepdim=True)
            by_input = (logits + u).softmax(dim=2)
            v = of_slots - (logits + u).logsumexp(dim=2, keepdim=True)
            trace.append((by_slot, by_input))
        log_plan = logits + u + v
        gradient = -log_plan.exp() * (log_plan + 1)  # with respect to the logarithm of T
        of_u, of_v = gradient.sum(dim=1, keepdim=True), gradient.sum(dim=2, keepdim=True)
        for by_slot, by_input in reversed(trace):
            gradient = gradient - by_input * of_v
            of_u = of_u - (by_input * of_v).sum(dim=1, keepdim=True)
            gradient = gradient - by_slot * of_u
            of_v = -(by_slot * of_u).sum(dim=2, keepdim=True)
            of_u = torch.zeros_like(of_u)
        return gradient
