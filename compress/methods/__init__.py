"""The methods: one file is one method, named after its file; no table to edit.

`protocol.py` says what a file of each kind (pack, rewrite, train) must and may define; docs/ADDING_A_METHOD.md shows
whole files. Methods see tensors only: no model, module, hook or device. Methods of a user's own lie in the folders that
the environment variable COMPRESS_METHODS names, and become modules of this package.
"""

from typing import TYPE_CHECKING

from compress.methods import registry

registry.extend(__path__)

if TYPE_CHECKING:
    from compress.methods import (
        aqlm,
        ast,
        distill,
        easyquant,
        finequant,
        gptq,
        llm_pruner,
        magnitude,
        none,
        rtn,
        sparsegpt,
        spqr,
        svd_llm,
        wanda,
    )
    from compress.methods.protocol import MethodFile, PackFile, PackMethod, RewriteMethod, TrainMethod

    # What the type checker holds the bundled files to: what is required, and the signature of every hook they define.
    _PACK: tuple[PackFile, ...] = (aqlm, easyquant, finequant, gptq, magnitude, rtn, sparsegpt, spqr, svd_llm, wanda)
    _NOTHING: tuple[PackFile, ...] = (none,)
    _OTHERS: tuple[MethodFile, ...] = (ast, distill, llm_pruner)

    class _Aqlm(PackMethod):
        candidates = staticmethod(aqlm.candidates)
        nominal = staticmethod(aqlm.nominal)

    class _FineQuant(PackMethod):
        shared = staticmethod(finequant.shared)

    class _GPTQ(PackMethod):
        needs = staticmethod(gptq.needs)
        activations = staticmethod(gptq.activations)
        shared = staticmethod(gptq.shared)
        joins = staticmethod(gptq.joins)

    class _RTN(PackMethod):
        needs = staticmethod(rtn.needs)
        activations = staticmethod(rtn.activations)
        shared = staticmethod(rtn.shared)
        joins = staticmethod(rtn.joins)

    class _SpQR(PackMethod):
        candidates = staticmethod(spqr.candidates)
        nominal = staticmethod(spqr.nominal)
        pinned = staticmethod(spqr.pinned)

    class _SVDLLM(PackMethod):
        measure = staticmethod(svd_llm.measure)
        allot = staticmethod(svd_llm.allot)

    class _Sparse(PackMethod):
        COMPOSES = magnitude.COMPOSES and sparsegpt.COMPOSES and svd_llm.COMPOSES and wanda.COMPOSES

    class _None(PackMethod):
        PACKS = none.PACKS

    class _LLMPruner(RewriteMethod):
        REWRITER = llm_pruner.REWRITER
        kept_share = staticmethod(llm_pruner.kept_share)
        memory_bytes = staticmethod(llm_pruner.memory_bytes)

    class _AST(TrainMethod):
        TRAINER = ast.TRAINER
        check = staticmethod(ast.check)
        stored_bits = staticmethod(ast.stored_bits)

    class _Distill(TrainMethod):
        TRAINER = distill.TRAINER
        NEEDS_OTHER_TEACHER = distill.NEEDS_OTHER_TEACHER
