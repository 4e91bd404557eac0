"""A SageMaker asynchronous endpoint with its model, role, bucket, scaling and alarms."""

from collections.abc import Sequence
from functools import reduce

import pulumi
import pulumi_aws as aws

from async_inference.aws_names import log_group
from async_inference.scaling.plan import ScalingPlan
from async_inference.stack.arguments import ENDPOINT_TAG, AsyncEndpointArgs
from async_inference.stack.images import has_gpu
from components import access, container
from components.encryption import EncryptionKey, EncryptionKeyArgs, volume_key
from components.execution_role import ExecutionRole, ExecutionRoleArgs
from components.model_source import ModelSource, ModelSourceArgs
from components.notifications import Notifications, NotificationsArgs
from components.observability import EndpointWatch, EndpointWatchArgs
from components.preview import Fleet, PreviewMessages
from components.private_bucket import PrivateBucket, PrivateBucketArgs
from components.provider_account import ProviderAccount
from components.queue_scaling import QueueScaling, QueueScalingArgs, summary
from components.resumption import Resumption, clears_log_group
from components.rollback_guard import RollbackGuard
from components.rollout import deployment_config, rollback_alarm, rollback_alarm_name

__all__ = ["AsyncEndpoint", "AsyncEndpointArgs"]

VARIANT_NAME = "AllTraffic"
S3_PREFIX = "async_sdxl"


def initial_instances(plan: ScalingPlan) -> int:
    """InitialInstanceCount is at least 1 (BC): every deployment starts a GPU, even at a floor of 0.

    An update goes back to it, whatever runs (TF #48990).
    """
    return max(1, plan.min_capacity)


def _in_turn(*bindings: pulumi.ResourceHookBinding) -> pulumi.ResourceHookBinding:
    """Hooks that run one after the other, each only if those before it did not fail."""
    return reduce(pulumi.ResourceHookBinding.merge, bindings)


class AsyncEndpoint(pulumi.ComponentResource):
    """An asynchronous endpoint that costs nothing while idle.

    - `EncryptionKey`, with `security.encryption: customer`
    - `PrivateBucket` for code, inputs, outputs and failures
    - `ModelSource`: the packaged handler, its packages, and where the weights are
    - `Notifications`: a success and an error topic
    - `ExecutionRole`, with access to nothing but the above
    - the log group, before SageMaker creates one that never expires
    - the model and the endpoint configuration, auto-named, since every change replaces them
    - the alarm that rolls an update back, with `updates.rollback`
    - the endpoint, updated in place under a stable name
    - `QueueScaling`: 0 -> N -> 0 by the scaling plan
    - `EndpointWatch`: alarms, dashboard and budget, with `observability.enabled`
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
    """IAM policy document for the role that deploys this endpoint, as JSON."""
    invoker_policy: pulumi.Output[str]
    """IAM policy document for clients, which send requests and fetch results, as JSON."""
    operator_policy: pulumi.Output[str]
    """IAM policy document for people who calibrate rehearsals with this endpoint, as JSON."""

    def __init__(
        self, name: str, args: AsyncEndpointArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("async-inference:index:AsyncEndpoint", name, None, opts)
        args = args.model_copy(update={"tags": {**args.tags, ENDPOINT_TAG: args.endpoint_name}})
        self._child = pulumi.ResourceOptions(parent=self)
        self._account = account = ProviderAccount(
            args.region, args.provider_config, pulumi.InvokeOutputOptions(parent=self)
        )
        guard = RollbackGuard(name, args.endpoint_name, VARIANT_NAME, account)
        resumption = Resumption(name, args.endpoint_name, VARIANT_NAME, account)
        messages = PreviewMessages(
            name, Fleet(args.endpoint_name, args.instance_type, initial_instances(args.plan))
        )

        bucket = self._bucket(name, args, self._key(name, args))
        source = ModelSource(
            name,
            ModelSourceArgs(
                bucket_name=bucket.bucket_name,
                handler=args.handler,
                image=args.image,
                weights=args.weights,
            ),
            opts=self._child,
        )
        topics = Notifications(
            name,
            NotificationsArgs(
                subscriptions=args.subscriptions, kms_key_arn=self.kms_key_arn, tags=args.tags
            ),
            opts=self._child,
        )
        self.success_topic_arn = topics.success_topic_arn
        self.error_topic_arn = topics.error_topic_arn
        image_uri = container.image_uri(args, pulumi.InvokeOutputOptions(parent=self))
        role = self._role(name, args, bucket, image_uri)
        logs = aws.cloudwatch.LogGroup(
            f"{name}-logs",
            name=log_group(args.endpoint_name),
            retention_in_days=args.retention.log_days,
            kms_key_id=self.kms_key_arn,
            tags=args.tags,
            opts=self._with(hooks=clears_log_group(name, account)),
        )
        model = self._model(name, args, source, role, image_uri, guard.keeps_live)
        configuration = self._configuration(
            name,
            args,
            model,
            role,
            _in_turn(resumption.configuration, guard.keeps_live, messages.configuration),
        )
        endpoint = self._endpoint(
            name,
            args,
            configuration,
            [role.policy, logs],
            _in_turn(resumption.endpoint, guard.releases_target, messages.endpoint),
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
        self._write_access_policies(name, args)
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

    def _with(
        self,
        *,
        depends_on: Sequence[pulumi.Resource] = (),
        hooks: pulumi.ResourceHookBinding | None = None,
        delete_before_replace: bool | None = None,
    ) -> pulumi.ResourceOptions:
        """The options of a child."""
        return pulumi.ResourceOptions(
            parent=self,
            depends_on=list(depends_on),
            hooks=hooks,
            delete_before_replace=delete_before_replace,
        )

    def _key(self, name: str, args: AsyncEndpointArgs) -> EncryptionKey | None:
        """Sets the key's ARN; returns the key where this component creates one."""
        self.kms_key_arn = None
        if args.security.given_key_arn:
            self.kms_key_arn = pulumi.Output.from_input(args.security.given_key_arn)
        if args.security.encryption != "customer":
            return None
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
        self.kms_key_arn = key.arn
        return key

    def _bucket(
        self, name: str, args: AsyncEndpointArgs, key: EncryptionKey | None
    ) -> PrivateBucket:
        """Creates the bucket and sets where inputs, outputs and failures are."""
        bucket = PrivateBucket(
            name,
            PrivateBucketArgs(
                account=self._account,
                kms_key_arn=self.kms_key_arn,
                deleted_before=[key] if key else [],
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
        prefix = pulumi.Output.concat("s3://", bucket.bucket_name, f"/{S3_PREFIX}/")
        self.input_path = pulumi.Output.concat(prefix, "input")
        self.output_path = pulumi.Output.from_input(
            args.output_path or pulumi.Output.concat(prefix, "output")
        )
        self.failure_path = pulumi.Output.from_input(
            args.failure_path or pulumi.Output.concat(prefix, "failure")
        )
        return bucket

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
                security=args.security,
                rollback_alarm=rollback_alarm_name(args.endpoint_name, args.updates),
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
        hooks: pulumi.ResourceHookBinding,
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
                "environment": container.environment(args, source),
            },
            tags=args.tags,
            opts=self._with(depends_on=[role.policy], hooks=hooks),
        )

    def _configuration(
        self,
        name: str,
        args: AsyncEndpointArgs,
        model: aws.sagemaker.Model,
        role: ExecutionRole,
        hooks: pulumi.ResourceHookBinding,
    ) -> aws.sagemaker.EndpointConfiguration:
        ami = args.image.ami if has_gpu(args.instance_type) else None
        return aws.sagemaker.EndpointConfiguration(
            f"{name}-config",
            kms_key_arn=volume_key(self.kms_key_arn, args.instance_type),
            production_variants=[
                {
                    "variant_name": VARIANT_NAME,
                    "model_name": model.name,
                    "instance_type": args.instance_type,
                    "initial_instance_count": initial_instances(args.plan),
                    "inference_ami_version": args.inference_ami_version or ami,
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
            opts=self._with(depends_on=[role.policy], hooks=hooks),
        )

    def _endpoint(
        self,
        name: str,
        args: AsyncEndpointArgs,
        configuration: aws.sagemaker.EndpointConfiguration,
        created_after: Sequence[pulumi.Resource],
        hooks: pulumi.ResourceHookBinding,
    ) -> aws.sagemaker.Endpoint:
        alarm_name = rollback_alarm_name(args.endpoint_name, args.updates)
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
            opts=self._with(
                depends_on=[*created_after, *alarms],
                hooks=hooks,
                # No second one can have its name; its scaling is deleted and created with it.
                delete_before_replace=True,
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
                subscriptions=args.subscriptions,
                subscribed_after=[endpoint],
                kms_key_arn=self.kms_key_arn,
                tags=args.tags,
            ),
            opts=self._child,
        ).topic_arn

    def _write_access_policies(self, name: str, args: AsyncEndpointArgs) -> None:
        where = pulumi.Output.all(
            name=name,
            endpoint_name=args.endpoint_name,
            account_id=self._account.id,
            partition=self._account.partition,
            region=args.region,
        )
        key_arn = args.security.given_key_arn
        self.deployer_policy = pulumi.Output.json_dumps(
            where.apply(lambda known: access.deployer_policy(**known, given_key_arn=key_arn))
        )
        self.operator_policy = pulumi.Output.json_dumps(
            where.apply(lambda known: access.operator_policy(**known))
        )
        self.invoker_policy = pulumi.Output.json_dumps(
            pulumi.Output.all(
                endpoint_arn=self.endpoint_arn,
                partition=self._account.partition,
                writable=[self.input_path],
                readable=[self.output_path, self.failure_path],
                kms_key_arn=self.kms_key_arn,
                other_key_arns=list(args.security.other_key_arns),
                announces=args.plan.uses_announcements,
            ).apply(lambda known: access.invoker_policy(**known))
        )
