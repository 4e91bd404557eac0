"""A SageMaker asynchronous endpoint with its model, role, bucket, scaling and alarms."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from pathlib import Path

import pulumi
import pulumi_aws as aws
from pydantic.alias_generators import to_camel, to_snake

from async_inference.aws_names import log_group
from async_inference.scaling.plan import ScalingPlan, ScalingRules
from async_inference.stack.groups import (
    Observability,
    Retention,
    Security,
    Setup,
    Subscription,
    Updates,
)
from async_inference.stack.images import TORCHSERVE_REPOSITORY, Image, has_gpu, image_of
from async_inference.stack.settings import ENDPOINT_TAG, checked
from components.access import deployer_policy, invoker_policy, operator_policy
from components.encryption import EncryptionKey, EncryptionKeyArgs, volume_key
from components.execution_role import ExecutionRole, ExecutionRoleArgs, Network
from components.model_source import ModelSource, ModelSourceArgs
from components.notifications import Notifications, NotificationsArgs
from components.observability import EndpointWatch, EndpointWatchArgs
from components.preview import Fleet, PreviewWords
from components.private_bucket import PrivateBucket, PrivateBucketArgs
from components.provider_account import ProviderAccount
from components.queue_scaling import QueueScaling, QueueScalingArgs, summary
from components.resumption import Resumption, clears_log_group
from components.rollback_guard import RollbackGuard
from components.rollout import deployment_config, rollback_alarm

VARIANT_NAME = "AllTraffic"
ENDPOINT_NAME = r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"
"""BC EndpointName."""
S3_PREFIX = "async_sdxl"


@dataclass(frozen=True, kw_only=True)
class AsyncEndpointArgs:
    """What an `AsyncEndpoint` is made of; the rules are those of a stack's config.

    Args:
        endpoint_name: the endpoint's stable name; it updates in place.
        region: where it runs.
        instance_type: what each instance is, such as `ml.g5.2xlarge`.
        plan: capacity bounds, scaling policies and schedules.
        handler: folder with `inference.py` and what it imports.
        weights: `s3://` prefix or `.tar.gz`, a Hugging Face id, or `tiny`.
        image_uri: ECR image; None looks up AWS's image with `image_tag`.
        image_tag: tag of AWS's Ray Serve or PyTorch inference image.
        inference_ami_version: the host's drivers; None is what the image asks for.
        environment: variables for the handler, beside those that this component sets.
        max_concurrent_invocations_per_instance: 1-1000; must be set, or the backlog per instance
            can stay without data and nothing scales (docs/aws-facts.md#concurrency).
        invocation_timeout_s: 1-3600; the model server's limits follow from it.
        max_payload_bytes: largest request and response of the model server.
        model_download_timeout_s: 60-3600.
        startup_health_check_timeout_s: 60-3600; also the model server's limit for loading.
        output_path: `s3://` prefix for outputs; None is a prefix of the endpoint's own bucket.
        failure_path: the same for failures, which are lost when no path is set (DG).
        request_ttl_s: seconds until an unserved request expires, for the alarm before that.
        setup, setup_s: from asking for an instance to its first request, to check waits by.
        listeners: who is told that a request succeeded or failed, and what alarms find.
        security: keys and network.
        retention: how long what it keeps is kept.
        observability: alarms, dashboard, budget.
        updates: how an update shifts traffic, and what rolls it back.
        force_destroy_bucket: delete the bucket's objects with it.
        tags: tags for every resource that takes them, beside `endpoint`, the endpoint's name.
        provider_config: what an explicit provider of this component was given, by the keys of
            `aws:` config (`profile`, `assumeRoles`): its hooks look at AWS themselves, and refuse
            to where they would reach another account. None is the stack's own `aws:` config.
    """

    endpoint_name: str
    region: str
    instance_type: str
    plan: ScalingPlan
    handler: Path
    weights: str
    image_uri: pulumi.Input[str] | None = None
    image_tag: str | None = None
    inference_ami_version: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    max_concurrent_invocations_per_instance: int = 1
    invocation_timeout_s: int = 3600
    max_payload_bytes: int = 2_000_000_000
    model_download_timeout_s: int = 1800
    startup_health_check_timeout_s: int = 1800
    output_path: pulumi.Input[str] | None = None
    failure_path: pulumi.Input[str] | None = None
    request_ttl_s: int = 21_600
    setup: Setup = field(default_factory=Setup)
    setup_s: int = 0
    listeners: Sequence[Subscription] = ()
    security: Security = field(default_factory=Security)
    retention: Retention = field(default_factory=Retention)
    observability: Observability = field(default_factory=Observability)
    updates: Updates = field(default_factory=Updates)
    force_destroy_bucket: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    provider_config: Mapping[str, object] | None = None


def wrong(args: AsyncEndpointArgs) -> list[str]:
    """What a stack's config would be refused for, by the same rules; what only a deployment will
    know is left to AWS.

    Args:
        args: the arguments; their names are the config's keys in snake_case, but for `listeners`,
            which are its `subscriptions`, and `plan`.
    """
    given = {each.name: getattr(args, each.name) for each in fields(args)}
    plan, endpoint_name = given.pop("plan"), given.pop("endpoint_name")
    del given["provider_config"]
    given |= {
        "subscriptions": tuple(given.pop("listeners")),
        "handler": str(args.handler),
        "min_capacity": plan.min_capacity,
        "max_capacity": plan.max_capacity,
        "scaling_preset": "custom",
        "scaling_plan": ScalingRules(policies=plan.policies, schedules=plan.schedules),
        "stack": "component",
    }
    for name in ("image_uri", "image_tag", "output_path", "failure_path"):
        if not isinstance(given[name], str):
            del given[name]
    _, _, problems = checked({to_camel(name): value for name, value in given.items()})
    named = [re.sub(r"^\w+", lambda key: to_snake(key[0]), problem) for problem in problems]
    if not re.fullmatch(ENDPOINT_NAME, endpoint_name):
        named.insert(
            0,
            f"endpoint_name = {endpoint_name!r}: must be letters, digits and hyphens between them, "
            "at most 63 characters",
        )
    return named


def model_server_environment(
    image: Image,
    *,
    timeout_s: int,
    max_payload_bytes: int,
    startup_timeout_s: int,
    concurrency: int,
) -> dict[str, str]:
    """The model server's limits, from one timeout and one size.

    Those of TorchServe (TS) and Multi Model Server (MMS) are below the asynchronous limits unless
    set (DG async-inference-create-endpoint); loading has its own limit, and too low a one
    reloads for ever (docs/aws-facts.md#torchserve). Ray Serve limits no size, and takes as many
    requests at a time as it is told; the timeout is that of the image's adapter (docs/ray, v1.4).
    """
    if image.serving == "ray":
        return {
            "RAYSERVE_BACKEND_TIMEOUT": str(timeout_s),
            "HANDLER_CONCURRENCY": str(concurrency),
        }
    limits = {
        "DEFAULT_RESPONSE_TIMEOUT": timeout_s,
        "MAX_REQUEST_SIZE": max_payload_bytes,
        "MAX_RESPONSE_SIZE": max_payload_bytes,
    }
    return {
        **{
            f"{server}_{limit}": str(value)
            for server in ("TS", "MMS")
            for limit, value in limits.items()
        },
        "TS_DEFAULT_STARTUP_TIMEOUT": str(startup_timeout_s),
    }


def initial_instances(plan: ScalingPlan) -> int:
    """InitialInstanceCount is at least 1 (BC): every deployment starts a GPU, even at a floor of 0.

    An update goes back to it, whatever runs (TF #48990).
    """
    return max(1, plan.min_capacity)


def _network(security: Security) -> Network | None:
    if not security.subnet_ids:
        return None
    return Network(subnet_ids=security.subnet_ids, security_group_ids=security.security_group_ids)


def _known_image(args: AsyncEndpointArgs) -> Image:
    """What is known of the image before anything is deployed."""
    named = args.image_tag if args.image_uri is None else args.image_uri
    return image_of(named if isinstance(named, str) else "")


def _python_path(*folders: str | None) -> dict[str, str]:
    """The variable that puts folders on Python's path, behind the handler's own."""
    given = [folder for folder in folders if folder]
    return {"PYTHONPATH": ":".join(given)} if given else {}


def rollback_alarm_name(args: AsyncEndpointArgs) -> str | None:
    """The name of the alarm that rolls an update back, None where nothing does."""
    return f"{args.endpoint_name}-rollback" if args.updates.rollback else None


def _in_turn(*bindings: pulumi.ResourceHookBinding) -> pulumi.ResourceHookBinding:
    """Hooks that run one after the other, each only if those before it did not fail."""
    return reduce(pulumi.ResourceHookBinding.merge, bindings)


class AsyncEndpoint(pulumi.ComponentResource):
    """An asynchronous endpoint that costs nothing while idle.

    - `EncryptionKey`, if its own key is asked for
    - `PrivateBucket` for code, inputs, outputs and failures
    - `ModelSource`: the packaged handler, its packages and the weights' place
    - `Notifications`: a success and an error topic
    - `ExecutionRole`, limited to what follows from the rest
    - the log group, before SageMaker makes one that is kept for ever
    - the model and the endpoint configuration, auto-named since every change replaces them
    - the alarm that rolls an update back, if that is asked for
    - the endpoint, updated in place under a stable name
    - `QueueScaling`: 0 -> N -> 0 by the scaling plan
    - `EndpointWatch`: alarms, dashboard, budget

    Raises:
        pulumi.RunError: arguments are wrong; nothing is registered.
    """

    endpoint_name: pulumi.Output[str]
    endpoint_arn: pulumi.Output[str]
    bucket_name: pulumi.Output[str]
    input_path: pulumi.Output[str]
    output_path: pulumi.Output[str]
    failure_path: pulumi.Output[str]
    success_topic_arn: pulumi.Output[str]
    error_topic_arn: pulumi.Output[str]
    operations_topic_arn: pulumi.Output[str] | None
    role_arn: pulumi.Output[str]
    kms_key_arn: pulumi.Output[str] | None
    scaling: str
    deployer_policy: pulumi.Output[str]
    """IAM policy document of who deploys this endpoint, as JSON."""
    invoker_policy: pulumi.Output[str]
    """IAM policy document of who sends requests and fetches answers, as JSON."""
    operator_policy: pulumi.Output[str]
    """IAM policy document of who calibrates rehearsals by this endpoint, as JSON."""

    def __init__(
        self, name: str, args: AsyncEndpointArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        problems = wrong(args)
        if problems:
            raise pulumi.RunError(f"{name}: nothing was registered:\n" + "\n".join(problems))
        super().__init__("async-inference:index:AsyncEndpoint", name, None, opts)
        args = replace(args, tags={**args.tags, ENDPOINT_TAG: args.endpoint_name})
        self._child = pulumi.ResourceOptions(parent=self)
        self._image = _known_image(args)
        self._account = account = ProviderAccount(
            args.region, args.provider_config, pulumi.InvokeOutputOptions(parent=self)
        )
        guard = RollbackGuard(name, args.endpoint_name, VARIANT_NAME, account)
        resumption = Resumption(name, args.endpoint_name, VARIANT_NAME, account)
        words = PreviewWords(
            name, Fleet(args.endpoint_name, args.instance_type, initial_instances(args.plan))
        )

        self.kms_key_arn, key_resources = self._key(name, args)
        bucket = PrivateBucket(
            name,
            PrivateBucketArgs(
                account=account,
                kms_key_arn=self.kms_key_arn,
                outlived_by=key_resources,
                expires_d={
                    f"{S3_PREFIX}/input/": args.retention.input_days,
                    f"{S3_PREFIX}/output/": args.retention.output_days,
                    f"{S3_PREFIX}/failure/": args.retention.failure_days,
                },
                old_versions_d=args.retention.old_version_days,
                force_destroy=args.force_destroy_bucket,
                tags=args.tags,
            ),
            opts=self._child,
        )
        own = pulumi.Output.concat("s3://", bucket.bucket_name, f"/{S3_PREFIX}/")
        self.input_path = pulumi.Output.concat(own, "input")
        self.output_path = pulumi.Output.from_input(
            args.output_path or pulumi.Output.concat(own, "output")
        )
        self.failure_path = pulumi.Output.from_input(
            args.failure_path or pulumi.Output.concat(own, "failure")
        )
        source = ModelSource(
            name,
            ModelSourceArgs(
                bucket_name=bucket.bucket_name,
                handler=args.handler,
                image=self._image,
                weights=args.weights,
            ),
            opts=self._child,
        )
        topics = Notifications(
            name,
            NotificationsArgs(
                listeners=args.listeners, kms_key_arn=self.kms_key_arn, tags=args.tags
            ),
            opts=self._child,
        )
        self.success_topic_arn = topics.success_topic_arn
        self.error_topic_arn = topics.error_topic_arn
        image_uri = self._image_uri(args)
        role = self._role(name, args, bucket, image_uri)
        logs = aws.cloudwatch.LogGroup(
            f"{name}-logs",
            name=log_group(args.endpoint_name),
            retention_in_days=args.retention.log_days,
            kms_key_id=self.kms_key_arn,
            tags=args.tags,
            opts=pulumi.ResourceOptions.merge(
                self._child, pulumi.ResourceOptions(hooks=clears_log_group(name, account))
            ),
        )
        model = self._model(name, args, source, role, image_uri, guard)
        configuration = self._configuration(
            name,
            args,
            model,
            role,
            _in_turn(resumption.configuration, guard.keeps_live, words.configuration),
        )
        endpoint = self._endpoint(
            name,
            args,
            configuration,
            [role.policy, logs],
            _in_turn(resumption.endpoint, guard.releases_target, words.endpoint),
        )
        scaling = QueueScaling(
            name,
            QueueScalingArgs(
                endpoint_name=endpoint.name,
                variant_name=VARIANT_NAME,
                registered_for=endpoint.endpoint_config_name.apply(guard.registered_for),
                plan=args.plan,
                target_hooks=guard.keeps_bounds,
                tags=args.tags,
                account=account,
            ),
            opts=self._child,
        )
        scaling.resource_id.apply(lambda _: guard.confirm_scaled(len(args.plan.policies)))
        self.operations_topic_arn = self._watch(name, args, endpoint)

        self.endpoint_name = endpoint.name
        self.endpoint_arn = endpoint.arn
        self.bucket_name = bucket.bucket_name
        self.role_arn = role.arn
        self.scaling = summary(args.plan)
        where = pulumi.Output.all(
            name=name,
            endpoint_name=args.endpoint_name,
            account_id=account.id,
            partition=account.partition,
            region=args.region,
        )
        self.deployer_policy = pulumi.Output.json_dumps(
            where.apply(
                lambda known: deployer_policy(**known, given_key_arn=args.security.given_key_arn)
            )
        )
        self.operator_policy = pulumi.Output.json_dumps(
            where.apply(lambda known: operator_policy(**known))
        )
        self.invoker_policy = pulumi.Output.json_dumps(
            pulumi.Output.all(
                endpoint_arn=self.endpoint_arn,
                partition=account.partition,
                writable=[self.input_path],
                readable=[self.output_path, self.failure_path],
                kms_key_arn=self.kms_key_arn,
                other_key_arns=list(args.security.other_key_arns),
                announces=args.plan.hears_announcements,
            ).apply(lambda known: invoker_policy(**known))
        )
        self.register_outputs(
            {
                "endpoint_name": self.endpoint_name,
                "endpoint_arn": self.endpoint_arn,
                "bucket_name": self.bucket_name,
                "input_path": self.input_path,
                "output_path": self.output_path,
                "failure_path": self.failure_path,
                "success_topic_arn": self.success_topic_arn,
                "error_topic_arn": self.error_topic_arn,
                "operations_topic_arn": self.operations_topic_arn,
                "role_arn": self.role_arn,
                "kms_key_arn": self.kms_key_arn,
                "scaling": self.scaling,
                "deployer_policy": self.deployer_policy,
                "invoker_policy": self.invoker_policy,
                "operator_policy": self.operator_policy,
            }
        )

    def _key(
        self, name: str, args: AsyncEndpointArgs
    ) -> tuple[pulumi.Output[str] | None, list[pulumi.Resource]]:
        """The key's ARN, and what of it is this stack's own."""
        if args.security.encryption == "aws":
            return None, []
        if args.security.given_key_arn:
            return pulumi.Output.from_input(args.security.given_key_arn), []
        key = EncryptionKey(
            name,
            EncryptionKeyArgs(
                account=self._account,
                region=args.region,
                log_group=log_group(args.endpoint_name),
                alias=args.endpoint_name,
                tags=args.tags,
            ),
            opts=self._child,
        )
        return key.arn, [key]

    def _image_uri(self, args: AsyncEndpointArgs) -> pulumi.Output[str]:
        if args.image_uri is not None:
            return pulumi.Output.from_input(args.image_uri)
        # The provider knows the region's account of this repository, and not of `ray` (7.51); AWS
        # keeps both in the same one.
        known = aws.sagemaker.get_prebuilt_ecr_image_output(
            repository_name=TORCHSERVE_REPOSITORY,
            image_tag=args.image_tag,
            region=args.region,
            opts=pulumi.InvokeOutputOptions(parent=self),
        ).registry_path
        repository = self._image.repository
        return known.apply(
            lambda path: path.replace(f"/{TORCHSERVE_REPOSITORY}:", f"/{repository}:")
        )

    def _role(
        self,
        name: str,
        args: AsyncEndpointArgs,
        bucket: PrivateBucket,
        image_uri: pulumi.Output[str],
    ) -> ExecutionRole:
        readable: list[pulumi.Input[str]] = [
            self.input_path,
            pulumi.Output.concat("s3://", bucket.bucket_name, "/code"),
        ]
        if args.weights.startswith("s3://"):
            readable.append(args.weights)
        return ExecutionRole(
            name,
            ExecutionRoleArgs(
                account_id=self._account.id,
                partition=self._account.partition,
                region=args.region,
                endpoint_name=args.endpoint_name,
                image_uri=image_uri,
                readable=readable,
                writable=[self.output_path, self.failure_path],
                topic_arns=[self.success_topic_arn, self.error_topic_arn],
                kms_key_arn=self.kms_key_arn,
                other_key_arns=args.security.other_key_arns,
                network=_network(args.security),
                rollback_alarm=rollback_alarm_name(args),
                tags=args.tags,
            ),
            opts=self._child,
        )

    def _model(
        self,
        name: str,
        args: AsyncEndpointArgs,
        source: ModelSource,
        role: ExecutionRole,
        image_uri: pulumi.Output[str],
        guard: RollbackGuard,
    ) -> aws.sagemaker.Model:
        return aws.sagemaker.Model(
            f"{name}-model",
            execution_role_arn=role.arn,
            enable_network_isolation=args.security.network_isolation or None,
            vpc_config=(
                {
                    "subnets": list(args.security.subnet_ids),
                    "security_group_ids": list(args.security.security_group_ids),
                }
                if args.security.subnet_ids
                else None
            ),
            primary_container={
                "image": image_uri,
                "model_data_source": source.code,
                "additional_model_data_sources": source.additional_sources,
                "environment": {
                    "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
                    "SAGEMAKER_PROGRAM": "inference.py",
                    "SAGEMAKER_REGION": args.region,
                    "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
                    **model_server_environment(
                        self._image,
                        timeout_s=args.invocation_timeout_s,
                        max_payload_bytes=args.max_payload_bytes,
                        startup_timeout_s=args.startup_health_check_timeout_s,
                        concurrency=args.max_concurrent_invocations_per_instance,
                    ),
                    "MODEL_WEIGHTS": source.weights_location,
                    **args.environment,
                    **_python_path(source.packages_folder, args.environment.get("PYTHONPATH")),
                },
            },
            tags=args.tags,
            opts=pulumi.ResourceOptions.merge(
                self._child,
                pulumi.ResourceOptions(depends_on=[role.policy], hooks=guard.keeps_live),
            ),
        )

    def _configuration(
        self,
        name: str,
        args: AsyncEndpointArgs,
        model: aws.sagemaker.Model,
        role: ExecutionRole,
        hooks: pulumi.ResourceHookBinding,
    ) -> aws.sagemaker.EndpointConfiguration:
        asked_for = self._image.ami if has_gpu(args.instance_type) else None
        return aws.sagemaker.EndpointConfiguration(
            f"{name}-config",
            kms_key_arn=volume_key(self.kms_key_arn, args.instance_type),
            production_variants=[
                {
                    "variant_name": VARIANT_NAME,
                    "model_name": model.name,
                    "instance_type": args.instance_type,
                    "initial_instance_count": initial_instances(args.plan),
                    "inference_ami_version": args.inference_ami_version or asked_for,
                    "model_data_download_timeout_in_seconds": args.model_download_timeout_s,
                    "container_startup_health_check_timeout_in_seconds": (
                        args.startup_health_check_timeout_s
                    ),
                }
            ],
            async_inference_config={
                "output_config": {
                    "s3_output_path": self.output_path,
                    "s3_failure_path": self.failure_path,
                    "kms_key_id": self.kms_key_arn,
                    "notification_config": {
                        "success_topic": self.success_topic_arn,
                        "error_topic": self.error_topic_arn,
                    },
                },
                "client_config": {
                    "max_concurrent_invocations_per_instance": (
                        args.max_concurrent_invocations_per_instance
                    ),
                },
            },
            tags=args.tags,
            opts=pulumi.ResourceOptions.merge(
                self._child,
                pulumi.ResourceOptions(depends_on=[role.policy], hooks=hooks),
            ),
        )

    def _endpoint(
        self,
        name: str,
        args: AsyncEndpointArgs,
        configuration: aws.sagemaker.EndpointConfiguration,
        before: Sequence[pulumi.Resource],
        hooks: pulumi.ResourceHookBinding,
    ) -> aws.sagemaker.Endpoint:
        alarm_name = rollback_alarm_name(args)
        alarms: list[pulumi.Resource] = []
        if alarm_name is not None:
            alarms.append(
                rollback_alarm(
                    name,
                    alarm_name,
                    endpoint_name=args.endpoint_name,
                    variant_name=VARIANT_NAME,
                    configuration_name=configuration.name,
                    tags=args.tags,
                    opts=self._child,
                )
            )
        return aws.sagemaker.Endpoint(
            f"{name}-endpoint",
            name=args.endpoint_name,
            endpoint_config_name=configuration.name,
            deployment_config=deployment_config(args.updates, alarm_name),
            tags=args.tags,
            opts=pulumi.ResourceOptions.merge(
                self._child,
                pulumi.ResourceOptions(
                    depends_on=[*before, *alarms],
                    hooks=hooks,
                    # There is one of its name; what scales it goes and comes with it.
                    delete_before_replace=True,
                ),
            ),
        )

    def _watch(
        self, name: str, args: AsyncEndpointArgs, endpoint: aws.sagemaker.Endpoint
    ) -> pulumi.Output[str] | None:
        if not args.observability.enabled:
            return None
        return EndpointWatch(
            name,
            EndpointWatchArgs(
                settings=args.observability,
                account_id=self._account.id,
                region=args.region,
                endpoint_name=args.endpoint_name,
                variant_name=VARIANT_NAME,
                plan=args.plan,
                request_ttl_s=args.request_ttl_s,
                listeners=args.listeners,
                heard_after=[endpoint],
                kms_key_arn=self.kms_key_arn,
                tags=args.tags,
            ),
            opts=self._child,
        ).topic_arn
