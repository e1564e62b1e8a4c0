"""What is known of torch's operations: the MACs of those that its own counter has no formula for, and which do none.

Names are those of `torch.ops.aten`. An operation that is neither here nor in torch's counter is reported by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch

Shape = Sequence[int]

# Operations that multiply no matrices. Those that torch tags as pointwise or as reductions need no entry, nor do views.
QUIET = frozenset(
    # Reductions, scans, sorting.
    """
    all allclose amax amin aminmax any argmax argmin argsort bincount bucketize count_nonzero cummax cummin cumprod
    cumsum dist equal histc kthvalue linalg_vector_norm logcumsumexp logsumexp max mean median min mode nanmedian
    nansum native_norm norm prod searchsorted segment_reduce sort std std_mean sum topk trace unique_consecutive
    unique_dim var var_mean _aminmax _is_all_true _is_any_true _cummax_helper _cummin_helper _logcumsumexp _unique
    _unique2 isin
    """
    # Normalizations, softmax, dropout, the pointwise parts of recurrent cells, losses.
    """
    native_batch_norm native_group_norm native_layer_norm cudnn_batch_norm miopen_batch_norm batch_norm_elemt
    _native_batch_norm_legit _native_batch_norm_legit_functional _native_batch_norm_legit_no_training
    _batch_norm_no_update _batch_norm_with_update _fused_rms_norm _weight_norm_interface renorm embedding_renorm
    _softmax _log_softmax _safe_softmax _masked_softmax native_dropout _fused_dropout _masked_scale
    _thnn_fused_gru_cell _thnn_fused_lstm_cell glu log_sigmoid_forward rrelu_with_noise _prelu_kernel
    binary_cross_entropy binary_cross_entropy_with_logits huber_loss mse_loss multi_margin_loss nll_loss_forward
    nll_loss2d_forward smooth_l1_loss soft_margin_loss multilabel_margin_loss_forward
    """
    # Pooling, resampling, padding.
    """
    avg_pool2d avg_pool3d adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d fractional_max_pool3d
    max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d mkldnn_max_pool2d mkldnn_max_pool3d
    _adaptive_avg_pool2d _adaptive_avg_pool3d grid_sampler_2d grid_sampler_3d cudnn_grid_sampler affine_grid_generator
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_trilinear3d _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d
    constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d col2im im2col
    """
    # Indexing and rearranging.
    """
    as_strided_scatter block_diag cat channel_shuffle diag_embed diagonal_scatter embedding flip gather index index_add
    index_copy index_fill index_put index_reduce index_select masked_fill masked_scatter masked_select nonzero
    nonzero_static pixel_shuffle pixel_unshuffle put repeat repeat_interleave roll rot90 scatter scatter_add
    scatter_reduce select_scatter slice_scatter stack take tril tril_indices triu triu_indices unsafe_split
    unsafe_split_with_sizes where _chunk_cat _embedding_bag _embedding_bag_forward_only _index_put_impl
    _unsafe_index _unsafe_index_put _unsafe_masked_index _pack_padded_sequence _stack _unsafe_view
    """
    # Pointwise, and not tagged so.
    "floor_divide"
    # Making, copying and converting tensors; random numbers; questions and assertions.
    """
    arange bernoulli binomial clone complex copy empty empty_like empty_permuted empty_strided exponential eye fill
    from_file full full_like heaviside lift lift_fresh lift_fresh_copy linspace log_normal logspace multinomial
    new_empty new_empty_strided new_full new_ones new_zeros normal ones ones_like poisson rand rand_like randint
    randint_like randn randn_like random randperm range resize scalar_tensor set uniform zero zeros zeros_like
    bartlett_window blackman_window hamming_window hann_window kaiser_window fft_fftfreq fft_rfftfreq _copy_from
    _to_copy _to_dense _pin_memory _efficientzerotensor _local_scalar_dense _assert_async _assert_scalar
    _assert_tensor_metadata _functional_assert_async _linalg_check_errors _cudnn_init_dropout_state
    _cudnn_rnn_flatten_weight _resize_output is_pinned is_same_size item linalg_cross lu_unpack quantize_per_tensor
    quantize_per_channel fake_quantize_per_tensor_affine_cachemask fake_quantize_per_channel_affine_cachemask
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams sym_constrain_range sym_constrain_range_for_size
    """.split()
)


def counts_nothing(operation: Any) -> bool:
    """Whether an operation (of `torch.ops`) is known to do no MACs: pointwise, a view, a reduction, indexing, ..."""
    namespace, _, name = str(operation).partition(".")
    if namespace == "profiler":
        return True
    if namespace != "aten":
        return False
    plain = name.removeprefix("_foreach_").rstrip("_")
    return plain in QUIET or plain.endswith("_copy") or any(map(_moves_or_maps, _variants(operation)))


def _moves_or_maps(variant: Any) -> bool:
    """A view, or by its tag pointwise or a reduction (torch has that last tag since 2.10)."""
    tags = {torch.Tag.pointwise, getattr(torch.Tag, "reduction", torch.Tag.pointwise)}
    return bool(getattr(variant, "is_view", False) or tags.intersection(variant.tags))


def _variants(operation: Any) -> Iterator[Any]:
    """Its overloads; of `_foreach_add` and its like those of `add`."""
    name = str(operation).removeprefix("aten.").removeprefix("_foreach_")
    packet = getattr(torch.ops.aten, name, operation)
    yield from (getattr(packet, overload) for overload in packet.overloads())


def formulas() -> dict[Any, Callable[..., int]]:
    """Operation -> FLOP (two a MAC) of its arguments' shapes, for the `custom_mapping` of torch's counter."""
    known = {name: getattr(torch.ops.aten, name, None) for name in _MACS}
    return {operation: _flop(_MACS[name]) for name, operation in known.items() if operation is not None}


def _flop(macs: Callable[..., int]) -> Callable[..., int]:
    return lambda *shapes, out_shape=None, **options: 2 * macs(*shapes, **options)


def _product(a: Shape, b: Shape) -> int:
    """Of (..., m, k) and (..., k, n), the leading sizes equal; b may be a vector (k,)."""
    return prod(a) * (b[-1] if len(b) > 1 else 1)


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """(..., L, E), (..., S, E), (..., S, V): scores and their product with the values, masked or not.

    Keys and values may have fewer heads than the queries.
    """
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(x: Shape, weights: Sequence[Shape]) -> int:
    """Each matrix meets every step of every sequence; x: (steps, sequences, inputs), or packed (all steps, inputs)."""
    return prod(x[:-1]) * sum(prod(weight) for weight in weights if len(weight) == 2)


def _trilinear(
    a: Shape, b: Shape, c: Shape, expand_a: Shape, expand_b: Shape, expand_c: Shape, summed: Shape, unrolled: int = 1
) -> int:
    """First a with b, then the result with c: what `nn.Bilinear` does. `expand_a`: the dimensions that a lacks."""
    order = len(a) + len(expand_a)
    sizes: dict[int, int] = {}
    present = []
    for shape, lacking in ((a, expand_a), (b, expand_b), (c, expand_c)):
        dims = [d for d in range(order) if d not in lacking]
        sizes.update({d: size for d, size in zip(dims, shape, strict=True) if size != 1 or d not in sizes})
        present.append(set(dims))
    first = present[0] | present[1] | {unrolled}
    second = (first - (set(summed) - present[2])) | present[2]
    return sum(prod(sizes[d] for d in dims) for dims in (first, second))


_MACS: Mapping[str, Callable[..., int]] = {
    "mv": lambda a, b: _product(a, b),
    "addmv": lambda _, a, b, **__: _product(a, b),
    "dot": lambda a, b: _product(a, b),
    "vdot": lambda a, b: _product(a, b),
    "addr": lambda _, a, b, **__: prod(a) * prod(b),
    "addbmm": lambda _, a, b, **__: _product(a, b),
    "_addmm_activation": lambda _, a, b, **__: _product(a, b),
    "_int_mm": lambda a, b: _product(a, b),
    "conv_tbc": lambda x, weight, _, padding=0: (x[0] + 2 * padding - weight[0] + 1) * x[1] * prod(weight),
    "_trilinear": _trilinear,
    "mkldnn_rnn_layer": lambda x, w_input, w_hidden, *_, **__: _recurrent(x, (w_input, w_hidden)),
    "_cudnn_rnn": lambda x, weights, *_, **__: _recurrent(x, weights),
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
}
