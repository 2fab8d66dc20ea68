"""Set attention: its meaning (`functional`), its arguments (`block`, `sets`, `arguments`) and who computes it.

`modular` calls a block's layers where they are more than their parameters, `derivatives` is for gradients of gradients.
`choice` decides between `reference`, the formulas; `composed`, library calls; `blockwise`, tiles on a CPU; `triton`,
fused kernels on a GPU. Private: users import `settx_fast`, `settx_fast.nn` and `settx_fast.functional`.
"""
