"""Serves a bundle over HTTP and gRPC.

A request passes through, in this order: `front` (request id, token, log, metrics), `api`, `oip.over_http` or `oip.over_grpc` (parsing),
`service` (admits it: a lease of the model, and from `admission` memory for its body and a place), `work` (what it holds, its time, its
jobs), `model` (pixels to boxes), `batcher` (several requests in one pass of the engine).
`process` starts and stops the server; `options` is the section `serve` of pipeline.yaml.
"""
