"""Serves a bundle over HTTP and gRPC.

A request passes through, in this order: `front` (request id, token, log, metrics), `api`, `oip.over_http` or `oip.over_grpc` (parsing),
`admission` (checks room and time), `model` (pixels to boxes), `batcher` (several requests in one pass of the engine).
`process` starts and stops the server; `options` is the section `serve` of pipeline.yaml.
"""
