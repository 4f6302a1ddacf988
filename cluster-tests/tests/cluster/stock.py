# What a stranger does with stock clients: reflection, health, submit, watch, logs; no generated code of ours.
import os
import sys

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

with open(sys.argv[2], "rb") as authorities:
    secure = grpc.ssl_channel_credentials(root_certificates=authorities.read())
try:
    health_pb2_grpc.HealthStub(grpc.secure_channel(sys.argv[1], secure)).Check(health_pb2.HealthCheckRequest(), timeout=5)
    ProtoReflectionDescriptorDatabase(grpc.secure_channel(sys.argv[1], secure)).get_services()
    raise AssertionError("a stranger was served")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
token = grpc.access_token_call_credentials(os.environ["MUSTER_ACCESS_TOKEN"])
channel = grpc.secure_channel(sys.argv[1], grpc.composite_channel_credentials(secure, token))
database = ProtoReflectionDescriptorDatabase(channel)
pool = descriptor_pool.DescriptorPool(database)

services = set(database.get_services())
for name in ["Jobs", "Cluster", "Access", "Lineage", "Blobs", "Telemetry"]:
    assert f"muster.v1.{name}" in services, services
assert not any("internal" in name for name in services), services

health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
assert health.status == health_pb2.HealthCheckResponse.SERVING, health


def method(service, name):
    found = pool.FindServiceByName(service).FindMethodByName(name)
    request, reply = map(message_factory.GetMessageClass, (found.input_type, found.output_type))
    make = channel.unary_stream if found.server_streaming else channel.unary_unary
    call = make(f"/{service}/{name}", request_serializer=request.SerializeToString, response_deserializer=reply.FromString)
    return request, call


Submit, submit = method("muster.v1.Jobs", "Submit")
request = Submit(request_id=os.urandom(16))
request.spec.command = "echo from python"
job = submit(request, timeout=10).job_id
assert submit(request, timeout=10).job_id == job

Watch, watch = method("muster.v1.Jobs", "Watch")
phases = [event.job.phase for event in watch(Watch(job_id=job), timeout=30)]
assert phases[-1] == "Completed", phases

Logs, logs = method("muster.v1.Jobs", "Logs")
assert b"".join(chunk.data for chunk in logs(Logs(job_id=job, follow=True), timeout=30)) == b"from python\n"

Get, get = method("muster.v1.Jobs", "Get")
try:
    get(Get(job_id=10**12), timeout=10)
    raise AssertionError("a job that is not there was found")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND, error
print("all good")
