"""SageMaker's control plane and InvokeEndpointAsync, for models, configurations and endpoints.

Errors use AWS's codes and words, since clients and the provider match them.
"""

import math
import re
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from async_inference.aws_names import EndpointStatus, arn
from async_inference.local_aws.fleet import deployment
from async_inference.local_aws.fleet.deployment import Deployment
from async_inference.local_aws.fleet.endpoint import Endpoint, change_refused
from async_inference.local_aws.fleet.environment import Environment
from async_inference.local_aws.fleet.instance import FleetPlan
from async_inference.local_aws.services.autoscaling import ApplicationAutoScaling
from async_inference.local_aws.services.errors import AwsError, validation_error
from async_inference.local_aws.services.moto_services import ACCOUNT_ID
from async_inference.stack.groups import LOCAL_STORAGE

MAX_INLINE_BODY_BYTES = 128_000
"""InvokeEndpointAsync's Body (newer BC)."""
DEFAULT_TTL_S = 21_600
DEFAULT_TIMEOUT_S = 900
"""InvocationTimeoutSeconds (BC InvokeEndpointAsync)."""
MAX_TAGS = 50
UNGUARDED_INSTANCES = ("ml.inf1.",)
"""Instance families whose updates fall back to all at once, unwatched (DG exclusions)."""

Request = dict[str, Any]


class SageMaker:
    """One region's models, endpoint configurations and endpoints.

    Args:
        region: the region.
        environment: what endpoints work with.
        autoscaling: told when endpoints go, asked whether a target forbids an update.
        missing_alarms: which of some alarms do not exist.
    """

    def __init__(
        self,
        region: str,
        environment: Environment,
        autoscaling: ApplicationAutoScaling,
        missing_alarms: Callable[[Sequence[str]], list[str]],
    ) -> None:
        self._region = region
        self._environment = environment
        self._autoscaling = autoscaling
        self._missing_alarms = missing_alarms
        self._lock = threading.RLock()
        journal = environment.journal
        self._models = journal.documents(f"{region}/model")
        self._configurations = journal.documents(f"{region}/endpoint-config")
        self._endpoints = journal.documents(f"{region}/endpoint")
        self._running: dict[str, Endpoint] = {}
        for name, document in self._endpoints.items():
            if document["EndpointStatus"] != EndpointStatus.FAILED:
                self._resume(name, document)

    def close(self) -> None:
        """Stop all instances."""
        for endpoint in list(self._running.values()):
            endpoint.close()

    def running(self) -> dict[str, Endpoint]:
        """The endpoints at work, by name."""
        # Without the lock: Application Auto Scaling asks under its own, and is told things under
        # this one.
        return dict(self._running)

    # Models

    def create_model(self, request: Request) -> Any:
        with self._lock:
            name = request["ModelName"]
            if name in self._models:
                raise validation_error(
                    f'Cannot create already existing model "{self._arn("model", name)}".'
                )
            if ("PrimaryContainer" in request) == bool(request.get("Containers")):
                raise validation_error(
                    "Exactly one of PrimaryContainer and Containers must be provided."
                )
            return {"ModelArn": self._create("model", self._models, name, request)}

    def describe_model(self, request: Request) -> Any:
        return _without(self._model(request["ModelName"]), "Tags") | {
            "ModelArn": self._arn("model", request["ModelName"])
        }

    def delete_model(self, request: Request) -> Any:
        with self._lock:
            self._model(request["ModelName"])
            self._delete("model", self._models, request["ModelName"])

    def list_models(self, request: Request) -> Any:
        return self._page(request, "Models", "Model", "model", self._models)

    # Endpoint configurations

    def create_endpoint_config(self, request: Request) -> Any:
        with self._lock:
            name = request["EndpointConfigName"]
            if name in self._configurations:
                raise validation_error(
                    "Cannot create already existing endpoint configuration "
                    f'"{self._arn("endpoint-config", name)}".'
                )
            _check_variants(request)
            for variant in request["ProductionVariants"]:
                if "ModelName" in variant:
                    self._model(variant["ModelName"])
            arn = self._create("endpoint-config", self._configurations, name, request)
            return {"EndpointConfigArn": arn}

    def describe_endpoint_config(self, request: Request) -> Any:
        name = request["EndpointConfigName"]
        return _without(self._configuration(name), "Tags") | {
            "EndpointConfigArn": self._arn("endpoint-config", name)
        }

    def delete_endpoint_config(self, request: Request) -> Any:
        with self._lock:
            self._configuration(request["EndpointConfigName"])
            self._delete("endpoint-config", self._configurations, request["EndpointConfigName"])

    def list_endpoint_configs(self, request: Request) -> Any:
        return self._page(
            request, "EndpointConfigs", "EndpointConfig", "endpoint-config", self._configurations
        )

    # Endpoints

    def create_endpoint(self, request: Request) -> Any:
        with self._lock:
            name = request["EndpointName"]
            if name in self._endpoints:
                raise validation_error(
                    f'Cannot create already existing endpoint "{self._arn("endpoint", name)}".'
                )
            plan = self._plan(request["EndpointConfigName"])
            config = request.get("DeploymentConfig")
            if config is not None:
                self._check_deployment(config, plan.initial_instances)
            arn = self._create("endpoint", self._endpoints, name, request)
            document = self._endpoints[name]
            document |= {"EndpointStatus": EndpointStatus.CREATING, "Serving": asdict(plan)}
            if config is not None:
                # For later updates that retain it; a creation has nothing to shift (DG).
                document["LastDeploymentConfig"] = document.pop("DeploymentConfig")
            self._save_endpoint(name)
            self._run(name, plan, None)
            return {"EndpointArn": arn}

    def describe_endpoint(self, request: Request) -> Any:
        name = request["EndpointName"]
        with self._lock:
            document = self._endpoint(name)
            answer = {
                key: document[key]
                for key in (
                    "EndpointName",
                    "EndpointConfigName",
                    "EndpointStatus",
                    "CreationTime",
                    "LastModifiedTime",
                    "FailureReason",
                    "LastDeploymentConfig",
                )
                if key in document
            } | {"EndpointArn": self._arn("endpoint", name)}
            endpoint = self._running.get(name)
            configuration = self._configurations.get(document["EndpointConfigName"], {})
            if "AsyncInferenceConfig" in configuration:
                answer["AsyncInferenceConfig"] = configuration["AsyncInferenceConfig"]
            if endpoint is None:
                return answer
            plan = endpoint.plan
            incoming = endpoint.incoming
            answer["ProductionVariants"] = [
                self._variant(plan, endpoint.in_service, endpoint.desired)
            ]
            if incoming is not None:
                new, serving, desired = incoming
                answer["PendingDeploymentSummary"] = {
                    "EndpointConfigName": new.configuration,
                    "StartTime": document["Update"]["started_s"],
                    "ProductionVariants": [
                        self._variant(new, serving, desired)
                        | {
                            "VariantStatus": [
                                {"Status": "Creating" if serving < desired else "Baking"}
                            ]
                        }
                    ],
                }
            return answer

    def update_endpoint(self, request: Request) -> Any:
        with self._lock:
            name = request["EndpointName"]
            document = self._endpoint(name)
            self._refuse_unless_in_service(name)
            plan = self._plan(request["EndpointConfigName"])
            endpoint = self._running[name]
            if plan.instance_type != endpoint.plan.instance_type and self._autoscaling.has_target(
                name, endpoint.plan.variant
            ):
                # DG endpoint-scaling.
                raise validation_error(
                    f"The variant(s) [{endpoint.plan.variant}] of endpoint {name} are registered "
                    "as scalable targets; deregister them before you change the instance type."
                )
            # Back to InitialInstanceCount unless told otherwise (TF #48990).
            instances = plan.initial_instances
            excluded = [
                each["VariantPropertyType"]
                for each in request.get("ExcludeRetainedVariantProperties", ())
            ]
            if (
                request.get("RetainAllVariantProperties")
                and "DesiredInstanceCount" not in excluded
                and plan.variant == endpoint.plan.variant
            ):
                instances = endpoint.desired
            config = request.get("DeploymentConfig")
            if config is None and request.get("RetainDeploymentConfig"):
                config = document.get("LastDeploymentConfig")
            if config is not None:
                if plan.variant != endpoint.plan.variant:
                    raise validation_error(
                        "A deployment configuration needs the same variant name in the old and the "
                        f"new endpoint configuration, not {endpoint.plan.variant} and "
                        f"{plan.variant}."
                    )
                self._check_deployment(config, instances)
                document["LastDeploymentConfig"] = config
            document["Update"] = {
                "plan": asdict(plan),
                "instances": instances,
                "config": config,
                "started_s": self._environment.clock.now_s(),
            }
            self._save_endpoint(name)
            endpoint.update(plan, instances, _deployment(plan, instances, config))
            return {"EndpointArn": self._arn("endpoint", name)}

    def update_endpoint_weights_and_capacities(self, request: Request) -> Any:
        with self._lock:
            name = request["EndpointName"]
            self._endpoint(name)
            self._refuse_unless_in_service(name)
            endpoint = self._running[name]
            for change in request["DesiredWeightsAndCapacities"]:
                if change["VariantName"] != endpoint.plan.variant:
                    raise validation_error(
                        f"Could not find variant {change['VariantName']} of endpoint {name}."
                    )
            for change in request["DesiredWeightsAndCapacities"]:
                if "DesiredInstanceCount" in change:
                    if not endpoint.set_desired(change["DesiredInstanceCount"]):
                        raise validation_error(change_refused(self._region, name))
                    endpoint.settle()
            return {"EndpointArn": self._arn("endpoint", name)}

    def delete_endpoint(self, request: Request) -> Any:
        with self._lock:
            name = request["EndpointName"]
            document = self._endpoint(name)
            if document["EndpointStatus"] != EndpointStatus.FAILED:
                self._refuse_unless_in_service(name)
            document["EndpointStatus"] = EndpointStatus.DELETING
            self._save_endpoint(name)
            endpoint = self._running.pop(name, None)
        if endpoint is not None:
            # Silently deregisters what scales it (DG endpoint-delete-with-scaling).
            self._autoscaling.endpoint_deleted(name)
            endpoint.delete()
        with self._lock:
            self._delete("endpoint", self._endpoints, name)

    def list_endpoints(self, request: Request) -> Any:
        return self._page(request, "Endpoints", "Endpoint", "endpoint", self._endpoints)

    # Tags

    def add_tags(self, request: Request) -> Any:
        with self._lock:
            kind, documents, name = self._tagged(request["ResourceArn"])
            tags = {tag["Key"]: tag["Value"] for tag in documents[name].get("Tags", [])}
            tags |= {tag["Key"]: tag["Value"] for tag in request["Tags"]}
            if len(tags) > MAX_TAGS:
                raise validation_error(f"A resource can have at most {MAX_TAGS} tags.")
            return {"Tags": self._set_tags(kind, documents, name, tags)}

    def delete_tags(self, request: Request) -> Any:
        with self._lock:
            kind, documents, name = self._tagged(request["ResourceArn"])
            tags = {
                tag["Key"]: tag["Value"]
                for tag in documents[name].get("Tags", [])
                if tag["Key"] not in request["TagKeys"]
            }
            self._set_tags(kind, documents, name, tags)
            return {}

    def list_tags(self, request: Request) -> Any:
        with self._lock:
            _, documents, name = self._tagged(request["ResourceArn"])
            return {"Tags": documents[name].get("Tags", [])}

    # Invocation

    def invoke_endpoint_async(self, request: Request, body: bytes | None) -> Any:
        """Accept one request; the answer names where its output or failure will be."""
        name = request["EndpointName"]
        with self._lock:
            endpoint = self._running.get(name)
            if name not in self._endpoints:
                raise _invalid(f"Endpoint {name} of account {ACCOUNT_ID} not found.")
            if endpoint is None or endpoint.status in (
                EndpointStatus.CREATING,
                EndpointStatus.FAILED,
            ):
                raise _invalid(f"Endpoint {name} of account {ACCOUNT_ID} is not in service.")
        location = request.get("InputLocation")
        if (location is None) == (body is None):
            raise _invalid("Exactly one of InputLocation and Body must be given.")
        if body is not None and len(body) > MAX_INLINE_BODY_BYTES:
            raise _invalid(
                f"Body of {len(body)} bytes exceeds the limit of {MAX_INLINE_BODY_BYTES} bytes."
            )
        if location is not None and not re.fullmatch(r"(s3|https)://[^/]+/.+", location):
            raise _invalid(f"InputLocation {location} is not the URI of an S3 object.")
        inference_id = request.get("InferenceId") or str(uuid.uuid4())
        output, failure = _locations(endpoint.plan, request)
        endpoint.requests.accept(
            {
                "inference_id": inference_id,
                "input_location": location,
                "content_type": request.get("ContentType"),
                "accept": request.get("Accept"),
                "custom_attributes": request.get("CustomAttributes"),
                "ttl_s": request.get("RequestTTLSeconds", DEFAULT_TTL_S),
                "timeout_s": request.get("InvocationTimeoutSeconds", DEFAULT_TIMEOUT_S),
                "output_location": output,
                "failure_location": failure,
            },
            body,
        )
        answer = {
            "InferenceId": inference_id,
            "OutputLocation": output,
            "FailureLocation": failure,
        }
        return {key: value for key, value in answer.items() if value}

    def invoke_endpoint(self, request: Request) -> Any:
        """Real-time invocation: an endpoint with an asynchronous configuration refuses it (DG)."""
        name = request["EndpointName"]
        if name not in self._endpoints:
            raise _invalid(f"Endpoint {name} of account {ACCOUNT_ID} not found.")
        raise _invalid(
            f"Endpoint {name} of account {ACCOUNT_ID} is an asynchronous endpoint; use "
            "InvokeEndpointAsync."
        )

    # What the operations share

    def _arn(self, kind: str, name: str) -> str:
        return arn(
            "sagemaker",
            f"{kind}/{name.lower()}",
            region=self._region,
            account_id=ACCOUNT_ID,
        )

    def _create(
        self, kind: str, documents: dict[str, dict[str, Any]], name: str, request: Request
    ) -> str:
        now_s = self._environment.clock.now_s()
        documents[name] = request | {"CreationTime": now_s, "LastModifiedTime": now_s}
        self._environment.journal.save(f"{self._region}/{kind}", name, documents[name])
        return self._arn(kind, name)

    def _delete(self, kind: str, documents: dict[str, dict[str, Any]], name: str) -> None:
        del documents[name]
        self._environment.journal.delete(f"{self._region}/{kind}", name)

    def _model(self, name: str) -> dict[str, Any]:
        if name not in self._models:
            raise validation_error(f'Could not find model "{self._arn("model", name)}".')
        return self._models[name]

    def _configuration(self, name: str) -> dict[str, Any]:
        if name not in self._configurations:
            raise validation_error(
                f'Could not find endpoint configuration "{self._arn("endpoint-config", name)}".'
            )
        return self._configurations[name]

    def _endpoint(self, name: str) -> dict[str, Any]:
        if name not in self._endpoints:
            raise validation_error(f'Could not find endpoint "{self._arn("endpoint", name)}".')
        return self._endpoints[name]

    def _refuse_unless_in_service(self, name: str) -> None:
        endpoint = self._running.get(name)
        status = endpoint.status if endpoint else self._endpoints[name]["EndpointStatus"]
        if status != EndpointStatus.IN_SERVICE:
            raise validation_error(change_refused(self._region, name))

    def _plan(self, configuration: str) -> FleetPlan:
        document = self._configuration(configuration)
        asynchronous = document.get("AsyncInferenceConfig")
        if asynchronous is None:
            raise validation_error(
                "The embedded AWS runs asynchronous endpoints only: endpoint configuration "
                f"{configuration} has no AsyncInferenceConfig."
            )
        (variant,) = document["ProductionVariants"]
        model = self._model(variant["ModelName"])
        container = model.get("PrimaryContainer") or model["Containers"][0]
        output = asynchronous["OutputConfig"]
        topics = output.get("NotificationConfig", {})
        source = container.get("ModelDataSource", {}).get("S3DataSource", {})
        return FleetPlan(
            configuration=configuration,
            variant=variant["VariantName"],
            instance_type=variant["InstanceType"],
            initial_instances=variant["InitialInstanceCount"],
            concurrency=asynchronous.get("ClientConfig", {}).get(
                "MaxConcurrentInvocationsPerInstance", 1
            ),
            environment=container.get("Environment", {}),
            model_data_url=container.get("ModelDataUrl") or source.get("S3Uri"),
            model_data_compression=source.get("CompressionType", "Gzip"),
            additional_sources=tuple(container.get("AdditionalModelDataSources", ())),
            output_path=output.get("S3OutputPath", ""),
            failure_path=output.get("S3FailurePath"),
            success_topic=topics.get("SuccessTopic"),
            error_topic=topics.get("ErrorTopic"),
            response_in=tuple(topics.get("IncludeInferenceResponseIn", ())),
        )

    def _variant(self, plan: FleetPlan, in_service: int, desired: int) -> dict[str, Any]:
        return {
            "VariantName": plan.variant,
            "CurrentWeight": 1.0,
            "DesiredWeight": 1.0,
            "CurrentInstanceCount": in_service,
            "DesiredInstanceCount": desired,
        }

    def _check_deployment(self, config: dict[str, Any], instances: int) -> None:
        problems = deployment.problems(config, instances)
        alarms = config.get("AutoRollbackConfiguration", {}).get("Alarms", ())
        missing = self._missing_alarms([alarm["AlarmName"] for alarm in alarms])
        if missing:
            problems.append(f"Could not find CloudWatch alarm(s) {', '.join(missing)}.")
        if problems:
            raise validation_error(" ".join(problems))

    def _run(self, name: str, plan: FleetPlan, resumed: int | None) -> None:
        self._running[name] = Endpoint(
            name, self._region, plan, self._environment, lambda: self._changed(name), resumed
        )

    def _resume(self, name: str, document: dict[str, Any]) -> None:
        """After a restart: continue with what the endpoint served, and start an update again."""
        status = document["EndpointStatus"]
        if status == EndpointStatus.DELETING:
            self._environment.journal.forget(name)
            self._environment.journal.delete(f"{self._region}/endpoint", name)
            return
        resumed = None if status == EndpointStatus.CREATING else document["DesiredInstances"]
        with self._lock:
            # Until the update continues, no event of an instance may end it.
            self._run(name, FleetPlan.restored(document["Serving"]), resumed)
            update = document.get("Update")
            if update is not None:
                plan, instances = FleetPlan.restored(update["plan"]), update["instances"]
                self._running[name].update(
                    plan, instances, _deployment(plan, instances, update["config"])
                )
            self._changed(name)

    def _changed(self, name: str) -> None:
        with self._lock:
            endpoint, document = self._running.get(name), self._endpoints.get(name)
            if endpoint is None or document is None:
                return
            document |= {
                "EndpointStatus": endpoint.status,
                "EndpointConfigName": endpoint.configuration,
                "Serving": asdict(endpoint.plan),
            }
            if endpoint.incoming is None:
                document.pop("Update", None)
                document["DesiredInstances"] = endpoint.desired
            if document.get("FailureReason") != endpoint.failure_reason:
                document["FailureReason"] = endpoint.failure_reason
                if endpoint.failure_reason is None:
                    del document["FailureReason"]
            document["LastModifiedTime"] = self._environment.clock.now_s()
            self._save_endpoint(name)
            if endpoint.incoming is not None:
                return
        self._autoscaling.capacity_changed(endpoint)

    def _save_endpoint(self, name: str) -> None:
        self._environment.journal.save(f"{self._region}/endpoint", name, self._endpoints[name])

    def _tagged(self, arn: str) -> tuple[str, dict[str, dict[str, Any]], str]:
        kind, _, lowered = arn.rpartition(":")[2].partition("/")
        documents = {
            "model": self._models,
            "endpoint-config": self._configurations,
            "endpoint": self._endpoints,
        }.get(kind, {})
        for name in documents:
            if name.lower() == lowered.lower():
                return kind, documents, name
        raise validation_error(f"Could not find resource {arn}.")

    def _set_tags(
        self, kind: str, documents: dict[str, dict[str, Any]], name: str, tags: dict[str, str]
    ) -> list[dict[str, str]]:
        documents[name]["Tags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
        self._environment.journal.save(f"{self._region}/{kind}", name, documents[name])
        return documents[name]["Tags"]

    def _page(
        self,
        request: Request,
        field: str,
        prefix: str,
        kind: str,
        documents: dict[str, dict[str, Any]],
    ) -> dict[str, Any]:
        times = ("CreationTime", "LastModifiedTime")
        shown = ("CreationTime",)
        if kind == "endpoint":
            shown = (*times, "EndpointStatus")
        with self._lock:
            found = [
                {
                    f"{prefix}Name": name,
                    f"{prefix}Arn": self._arn(kind, name),
                    **{key: document[key] for key in shown},
                }
                for name, document in documents.items()
                if request.get("NameContains", "").lower() in name.lower()
                and request.get("StatusEquals") in (None, document.get("EndpointStatus"))
                and all(
                    request.get(f"{key}After", -math.inf)
                    <= document[key]
                    <= request.get(f"{key}Before", math.inf)
                    for key in times
                )
            ]
        by = {"Name": f"{prefix}Name", "Status": "EndpointStatus"}
        key = by.get(request.get("SortBy", ""), "CreationTime")
        found.sort(key=lambda e: e[key], reverse=request.get("SortOrder") != "Ascending")
        start, size = _offset(request.get("NextToken")), request.get("MaxResults", 10)
        answer: dict[str, Any] = {field: found[start : start + size]}
        if start + size < len(found):
            answer["NextToken"] = str(start + size)
        return answer


def _check_variants(request: Request) -> None:
    """What SageMaker refuses about an endpoint configuration beyond its service model."""
    variants = request["ProductionVariants"]
    names = [variant["VariantName"] for variant in variants]
    problems = []
    if len(set(names)) < len(names):
        problems.append("Variant names must be unique within an endpoint configuration.")
    if "AsyncInferenceConfig" in request:
        if len(variants) > 1 or any("ServerlessConfig" in variant for variant in variants):
            # CDK RFC 431, from the service team: a single instance-based production variant.
            problems.append(
                "Asynchronous inference supports a single, instance-based production variant."
            )
        if request.get("ShadowProductionVariants"):
            # DG shadow-tests-exclusions.
            problems.append("Asynchronous inference does not support shadow variants.")
    for variant in variants:
        if "ServerlessConfig" in variant:
            continue
        if "KmsKeyId" in request and _family(variant.get("InstanceType", "")) in LOCAL_STORAGE:
            # Older service models; the newest says that the key does nothing there.
            problems.append(
                f"KmsKeyId cannot be used with {variant['InstanceType']}, which has local storage."
            )
        missing = [
            key
            for key in ("ModelName", "InstanceType", "InitialInstanceCount")
            if key not in variant
        ]
        if missing:
            problems.append(f"Variant {variant['VariantName']} needs {', '.join(missing)}.")
    if problems:
        raise validation_error(" ".join(problems))


def _family(instance_type: str) -> str:
    return instance_type.removeprefix("ml.").partition(".")[0]


def _locations(plan: FleetPlan, request: Request) -> tuple[str | None, str | None]:
    """Where a request's output or failure will be; None where the plan has no path for it."""
    # BC: Filename is the whole name; else one is generated.
    name, stem = request.get("Filename"), str(uuid.uuid4())
    output = failure = None
    if plan.output_path:
        extension = request.get("S3OutputPathExtension", "").strip("/")
        parts = (plan.output_path.rstrip("/"), extension, name or f"{stem}.out")
        output = "/".join(part for part in parts if part)
    if plan.failure_path:
        failure = f"{plan.failure_path.rstrip('/')}/{name or stem}-error.out"
    return output, failure


def _deployment(plan: FleetPlan, instances: int, config: dict[str, Any] | None) -> Deployment:
    if config is None or plan.instance_type.startswith(UNGUARDED_INSTANCES):
        return deployment.all_at_once(instances)
    return deployment.plan_deployment(config, instances)


def _invalid(message: str) -> AwsError:
    """The runtime's name for what the control plane calls a ValidationException (BC)."""
    return AwsError("ValidationError", message)


def _offset(token: str | None) -> int:
    if token is None:
        return 0
    if not re.fullmatch(r"[0-9]{1,9}", token):
        raise validation_error("Invalid pagination token")
    return int(token)


def _without(document: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in keys}
