"""Muon for CPUs: momentum, orthogonalised by a batched float32 Newton-Schulz iteration.

Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).
`torch.optim.Muon` iterates in bfloat16, one matrix at a time; on CPUs without bf16 units that was
measured five times slower than this one, which is why we carry our own.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices_BMN: Tensor, *, steps: int = 5, eps: float = 1e-7) -> Tensor:
    """Push every singular value of each matrix towards 1 (quintic Newton-Schulz), shape kept."""
    a, b, c = NS_COEFFICIENTS
    tall = matrices_BMN.shape[-2] > matrices_BMN.shape[-1]
    x = matrices_BMN.mT if tall else matrices_BMN
    # The Frobenius norm bounds the spectral norm, and the iteration converges below 1.
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(Optimizer):
    """Muon with decoupled weight decay; takes matrices and convolution kernels.

    Args:
        params: weights of two or more dimensions, or parameter groups of them; a kernel
            [out, in, h, w] is stepped as the matrix [out, in h w].
        lr: step size; each matrix' own is `lr * sqrt(max(1, rows / columns))`.
        weight_decay: decoupled, 1/step: weights shrink by `lr * weight_decay`.
        momentum: decay of the gradient's running mean; Nesterov's look-ahead is applied.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 2e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim < 2:
                    raise ValueError(f"Muon steps matrices only, got a shape of {tuple(p.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; same-shaped matrices are orthogonalised together."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for same in by_shape.values():
                self._step_stack(same, group)
        return loss

    def _step_stack(self, params: list[nn.Parameter], group: dict[str, Any]) -> None:
        momentum, lr = group["momentum"], group["lr"]
        updates = []
        for p in params:
            assert p.grad is not None
            state = self.state[p]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(p)
            mean = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
            updates.append(p.grad.lerp(mean, momentum))
        matrices = torch.stack([update.flatten(1) for update in updates])
        rows, columns = matrices.shape[1:]
        orthogonal = orthogonalise(matrices)
        torch._foreach_mul_(tuple(params), 1 - lr * group["weight_decay"])
        scale = lr * max(1.0, rows / columns) ** 0.5
        steps = [step.view(params[0].shape) for step in orthogonal.unbind()]
        torch._foreach_add_(tuple(params), steps, alpha=-scale)


def split(
    model: nn.Module, *, kernels: bool = False
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return (matrices for Muon, the rest for AdamW) of a model's trainable parameters.

    Muon's share is every 2-D weight inside the repeated blocks (members of a `ModuleList`) that
    is not an embedding table, with `kernels` convolutions too; input and output projections,
    norms and biases rest.
    """
    blocks = {
        id(p)
        for stack in model.modules()
        if isinstance(stack, nn.ModuleList)
        for p in stack.parameters()
    }
    tables = {
        id(p)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for p in module.parameters()
    }
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for p in model.parameters():
        if p.requires_grad:
            matrix = p.ndim == 2 or (kernels and p.ndim == 4)
            inside = matrix and id(p) in blocks and id(p) not in tables
            (matrices if inside else rest).append(p)
    return matrices, rest
