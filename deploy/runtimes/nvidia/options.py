"""Options of TensorRT and TensorRT for RTX."""

from typing import Annotated

from pydantic import Field

MaxBatch = Annotated[int, Field(ge=1, description="maximum batch size")]
BestBatch = Annotated[int, Field(ge=1, description="batch size for which the engine is tuned, at most `max_batch`")]
WorkspaceMib = Annotated[
    Annotated[int, Field(ge=1)] | None,
    Field(description="scratch memory that a layer may use, in MiB; null: TensorRT's own choice"),
]
Tf32 = Annotated[bool, Field(description="let fp32 layers round their factors to TF32")]
CudaGraph = Annotated[
    bool, Field(description="record an inference once and launch it as a single graph, which reduces CPU work; takes effect on opening")
]
