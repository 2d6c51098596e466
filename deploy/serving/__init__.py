"""A bundle over HTTP and gRPC.

What a request passes through, in this order: `front` (request id, token, log, metrics), `api` or `oip_http` or `oip_grpc` (what was
asked), `admission` (is there room and time), `model` (pixels to boxes), `batcher` (several requests, one pass of the engine).
`process` starts and ends it all; `options` are the section `serve` of pipeline.yaml.
"""
