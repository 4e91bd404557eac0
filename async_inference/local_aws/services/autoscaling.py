"""Application Auto Scaling's API for SageMaker variants, and its scaling activities.

`async_inference.scaling` decides what a deployed policy does to the capacity.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NotRequired, Required, TypedDict, TypeVar

from async_inference.aws_names import (
    SCALABLE_DIMENSION,
    SCALING_SERVICE,
    SERVICE_NAMESPACE,
    EndpointStatus,
    arn,
    scalable_id,
    scaled_variant,
)
from async_inference.local_aws.clock import Clock
from async_inference.local_aws.fleet.endpoint import Capacity, Endpoint, change_refused
from async_inference.local_aws.journal import Journal
from async_inference.local_aws.services.constraints import Answer
from async_inference.local_aws.services.errors import AwsError, validation_error
from async_inference.local_aws.services.moto_services import ACCOUNT_ID
from async_inference.scaling import documents, schedules
from async_inference.scaling.autoscaler import (
    Autoscaler,
    Decision,
    Request,
    Verdict,
    tracking_alarms,
)
from async_inference.scaling.plan import DeployedPolicy, TargetTracking
from async_inference.scaling.unsettled import Unsettled

if TYPE_CHECKING:
    from types_boto3_application_autoscaling import type_defs as types

    class PolicyDocument(types.PutScalingPolicyRequestTypeDef):
        PolicyARN: str
        CreationTime: float
        Alarms: list[types.AlarmTypeDef]

    class ScheduleDocument(types.PutScheduledActionRequestTypeDef):
        ScheduledActionARN: str
        CreationTime: float


KEPT_ACTIVITIES = 500


ActivityStatus = Literal["Failed", "InProgress", "Successful"]


class TargetDocument(TypedDict):
    """A scalable target as DescribeScalableTargets gives it, with its tags."""

    ServiceNamespace: str
    ResourceId: str
    ScalableDimension: str
    MinCapacity: int
    MaxCapacity: int
    RoleARN: str
    CreationTime: float
    SuspendedState: types.SuspendedStateTypeDef
    ScalableTargetARN: str
    Tags: dict[str, str]


class Activity(TypedDict):
    """A scaling activity as DescribeScalingActivities gives it."""

    ActivityId: str
    ServiceNamespace: str
    ResourceId: str
    ScalableDimension: str
    Cause: str
    StartTime: float
    Description: str
    StatusCode: ActivityStatus
    StatusMessage: NotRequired[str]
    EndTime: NotRequired[float]
    NotScaledReasons: NotRequired[list[types.NotScaledReasonTypeDef]]


class PolicyAnswer(TypedDict):
    """The answer of PutScalingPolicy."""

    PolicyARN: str
    Alarms: list[types.AlarmTypeDef]


class _PagedRequest(TypedDict, total=False):
    MaxResults: int
    NextToken: str


class _More(TypedDict, total=False):
    NextToken: str


class Activities(_More):
    """The answer of DescribeScalingActivities."""

    ScalingActivities: Required[list[Activity]]


Item = TypeVar("Item")


@dataclass
class ScalableTarget:
    """A registered scalable target and what belongs to it, policies and schedules by name."""

    document: TargetDocument
    scaler: Autoscaler
    policies: dict[str, PolicyDocument] = field(default_factory=dict)
    schedules: dict[str, ScheduleDocument] = field(default_factory=dict)
    activities: list[Activity] = field(default_factory=list)
    awaited: str | None = None
    """Why the capacity must move into the bounds once the change in progress is done; None if it
    need not."""


class _Saved(TypedDict):
    """A scalable target in the journal, which has its activities one by one."""

    document: TargetDocument
    policies: dict[str, PolicyDocument]
    schedules: dict[str, ScheduleDocument]
    awaited: NotRequired[str | None]
    desired: int
    cooldowns: dict[str, tuple[int, float, float]]


class ApplicationAutoScaling:
    """One region's scalable targets, policies, scheduled actions and activities.

    Args:
        region: the region.
        clock: the clock of the embedded AWS.
        journal: where resources are kept.
        unsettled: the reading of undocumented AWS behaviour.
        put_alarm, delete_alarms: create and delete the alarms of target tracking.
    """

    def __init__(
        self,
        region: str,
        clock: Clock,
        journal: Journal,
        unsettled: Unsettled,
        put_alarm: Callable[[str, documents.Document, str], None],
        delete_alarms: Callable[[list[str]], None],
    ) -> None:
        self._region = region
        self._clock = clock
        self._journal = journal
        self._unsettled = unsettled
        self._put_alarm = put_alarm
        self._delete_alarms = delete_alarms
        self._lock = threading.RLock()
        self._endpoints: Callable[[], dict[str, Endpoint]] = dict
        self._targets: dict[str, ScalableTarget] = {}
        for resource_id, saved in journal.documents(f"{region}/scalable-target").items():
            self._targets[resource_id] = self._restored(saved)
        for activity in journal.documents(f"{region}/scaling-activity").values():
            target = self._targets.get(activity["ResourceId"])
            if target is not None:  # else this process was killed before it saved the target
                target.activities.append(activity)

    def attach(self, endpoints: Callable[[], dict[str, Endpoint]]) -> None:
        """Set the function that returns the running endpoints by name."""
        self._endpoints = endpoints

    # Targets

    def register_scalable_target(
        self, request: types.RegisterScalableTargetRequestTypeDef
    ) -> dict[str, object]:
        resource_id = request["ResourceId"]
        with self._lock:
            endpoint = self._endpoint(resource_id)
            target = self._targets.get(resource_id)
            if target is not None and request.get("Tags"):
                raise validation_error(
                    "The scalable target that you tried to tag already exists. To update tags on "
                    "an existing scalable target, use the TagResource API."
                )
            known = target.document if target else None
            low = request.get("MinCapacity", known and known["MinCapacity"])
            high = request.get("MaxCapacity", known and known["MaxCapacity"])
            if low is None or high is None:
                raise validation_error("MinCapacity and MaxCapacity are required for a new target")
            if low > high:
                raise validation_error("Maximum capacity cannot be less than minimum capacity")
            document: TargetDocument = {
                "CreationTime": known["CreationTime"] if known else self._clock.now_s(),
                "ServiceNamespace": SERVICE_NAMESPACE,
                "ResourceId": resource_id,
                "ScalableDimension": SCALABLE_DIMENSION,
                "MinCapacity": low,
                "MaxCapacity": high,
                "RoleARN": _service_role(),
                "SuspendedState": {
                    "DynamicScalingInSuspended": False,
                    "DynamicScalingOutSuspended": False,
                    "ScheduledScalingSuspended": False,
                    **(known["SuspendedState"] if known else {}),
                    **request.get("SuspendedState", {}),
                },
                "ScalableTargetARN": known["ScalableTargetARN"] if known else self._target_arn(),
                "Tags": dict(request.get("Tags") or (known["Tags"] if known else {})),
            }
            if target is None:
                scaler = Autoscaler(low, high, endpoint.desired, self._unsettled)
                target = self._targets[resource_id] = ScalableTarget(document, scaler)
            target.document = document
            cause = (
                f"minimum capacity was set to {low}"
                if endpoint.desired < low
                else f"maximum capacity was set to {high}"
            )
            changed = self._set_bounds(target, endpoint, low, high, cause)
            self._save(resource_id)
        if changed:
            endpoint.settle()
        return {"ScalableTargetARN": document["ScalableTargetARN"]}

    def describe_scalable_targets(
        self, request: types.DescribeScalableTargetsRequestTypeDef
    ) -> dict[str, object]:
        with self._lock:
            wanted = request.get("ResourceIds")
            found = [
                {key: value for key, value in target.document.items() if key != "Tags"}
                for resource_id, target in self._targets.items()
                if not wanted or resource_id in wanted
            ]
            page, more = _page(request, found)
            return {"ScalableTargets": page, **more}

    def deregister_scalable_target(
        self, request: types.DeregisterScalableTargetRequestTypeDef
    ) -> dict[str, object]:
        with self._lock:
            resource_id = request["ResourceId"]
            self._target(resource_id)
            self._remove(resource_id)
            return {}

    # Policies

    def put_scaling_policy(self, request: types.PutScalingPolicyRequestTypeDef) -> PolicyAnswer:
        with self._lock:
            resource_id, name = request["ResourceId"], request["PolicyName"]
            target = self._target(resource_id)
            known = target.policies.get(name)
            kind = request.get("PolicyType") or (known or {}).get("PolicyType", "StepScaling")
            if known and known.get("PolicyType") != kind:
                raise validation_error("PolicyType cannot be changed")
            configuration = f"{kind}PolicyConfiguration"
            if configuration not in request and not known:
                raise validation_error(f"{configuration} is required for {kind}")
            document: PolicyDocument = {
                "PolicyARN": self._policy_arn(resource_id, name),
                "CreationTime": self._clock.now_s(),
                "Alarms": [],
                **(known or {}),
                "PolicyName": name,
                "ServiceNamespace": SERVICE_NAMESPACE,
                "ResourceId": resource_id,
                "ScalableDimension": SCALABLE_DIMENSION,
                "PolicyType": kind,
            }
            steps = request.get("StepScalingPolicyConfiguration")
            tracking = request.get("TargetTrackingScalingPolicyConfiguration")
            if kind == "StepScaling" and steps is not None:
                document["StepScalingPolicyConfiguration"] = steps
            if kind == "TargetTrackingScaling" and tracking is not None:
                document["TargetTrackingScalingPolicyConfiguration"] = tracking
            found, tracked = _policy(document)
            if isinstance(found, TargetTracking) and tracked is None:
                raise validation_error("This AWS tracks one metric, no expression over several")
            if kind == "TargetTrackingScaling":
                document["Alarms"] = self._tracking_alarms(resource_id, document)
            target.policies[name] = document
            self._save(resource_id)
            return {"PolicyARN": document["PolicyARN"], "Alarms": document["Alarms"]}

    def describe_scaling_policies(
        self, request: types.DescribeScalingPoliciesRequestTypeDef
    ) -> dict[str, object]:
        with self._lock:
            names = request.get("PolicyNames")
            found = [
                document
                for resource_id, target in self._targets.items()
                if request.get("ResourceId") in (None, resource_id)
                for document in target.policies.values()
                if not names or document["PolicyName"] in names
            ]
            page, more = _page(request, found)
            return {"ScalingPolicies": page, **more}

    def delete_scaling_policy(
        self, request: types.DeleteScalingPolicyRequestTypeDef
    ) -> dict[str, object]:
        with self._lock:
            target = self._targets.get(request["ResourceId"])
            document = target.policies.pop(request["PolicyName"], None) if target else None
            if document is None:
                raise _not_found(
                    f"No scaling policy found for service namespace: sagemaker, resource ID: "
                    f"{request['ResourceId']}, scalable dimension: {SCALABLE_DIMENSION}, "
                    f"policy name: {request['PolicyName']}"
                )
            self._delete_alarms([alarm["AlarmName"] for alarm in document["Alarms"]])
            self._save(request["ResourceId"])
            return {}

    # Scheduled actions

    def put_scheduled_action(self, request: types.PutScheduledActionRequestTypeDef) -> Answer:
        with self._lock:
            target = self._target(request["ResourceId"])
            name = request["ScheduledActionName"]
            try:
                schedules.check(request["Schedule"], request.get("Timezone", "UTC"))
            except ValueError as error:
                raise validation_error(str(error)) from error
            known = target.schedules.get(name)
            target.schedules[name] = {
                "ScheduledActionARN": self._arn(
                    "autoscaling",
                    f"scheduledAction:{uuid.uuid4()}:resource/{SERVICE_NAMESPACE}/"
                    f"{request['ResourceId']}:scheduledActionName/{name}",
                ),
                "CreationTime": self._clock.now_s(),
                "Timezone": "UTC",
                **(known or {}),
                **request,
            }
            self._save(request["ResourceId"])
            return {}

    def describe_scheduled_actions(
        self, request: types.DescribeScheduledActionsRequestTypeDef
    ) -> dict[str, object]:
        with self._lock:
            names = request.get("ScheduledActionNames")
            found = [
                document
                for resource_id, target in self._targets.items()
                if request.get("ResourceId") in (None, resource_id)
                for document in target.schedules.values()
                if not names or document["ScheduledActionName"] in names
            ]
            page, more = _page(request, found)
            return {"ScheduledActions": page, **more}

    def delete_scheduled_action(
        self, request: types.DeleteScheduledActionRequestTypeDef
    ) -> dict[str, object]:
        with self._lock:
            target = self._targets.get(request["ResourceId"])
            if target is None or not target.schedules.pop(request["ScheduledActionName"], None):
                raise _not_found(
                    f"No scheduled action found for service namespace: sagemaker, resource ID: "
                    f"{request['ResourceId']}, scheduled action name: "
                    f"{request['ScheduledActionName']}"
                )
            self._save(request["ResourceId"])
            return {}

    # Activities and tags

    def describe_scaling_activities(
        self, request: types.DescribeScalingActivitiesRequestTypeDef
    ) -> Activities:
        with self._lock:
            with_ignored = request.get("IncludeNotScaledActivities", False)
            found = [
                activity
                for activity in self.activities(request.get("ResourceId"))
                if with_ignored or "NotScaledReasons" not in activity
            ]
            page, more = _page(request, found)
            return {"ScalingActivities": page, **more}

    def tag_resource(self, request: types.TagResourceRequestTypeDef) -> Answer:
        with self._lock:
            resource_id, target = self._by_arn(request["ResourceARN"])
            target.document["Tags"].update(request["Tags"])
            self._save(resource_id)
            return {}

    def untag_resource(self, request: types.UntagResourceRequestTypeDef) -> Answer:
        with self._lock:
            resource_id, target = self._by_arn(request["ResourceARN"])
            for key in request["TagKeys"]:
                target.document["Tags"].pop(key, None)
            self._save(resource_id)
            return {}

    def list_tags_for_resource(
        self, request: types.ListTagsForResourceRequestTypeDef
    ) -> dict[str, object]:
        with self._lock:
            return {"Tags": self._by_arn(request["ResourceARN"])[1].document["Tags"]}

    # What the rest of the embedded AWS calls

    def activities(self, resource_id: str | None = None) -> list[Activity]:
        """All activities, or those of one target; the newest of each target first."""
        with self._lock:
            return [
                activity
                for each, target in self._targets.items()
                if resource_id in (None, each)
                for activity in reversed(target.activities)
            ]

    def has_target(self, endpoint: str, variant: str) -> bool:
        """Whether the variant is a scalable target."""
        return scalable_id(endpoint, variant) in self._targets

    def endpoint_deleted(self, endpoint: str) -> None:
        """Deregister the targets of a deleted endpoint."""
        with self._lock:
            for resource_id in list(self._targets):
                if scaled_variant(resource_id)[0] == endpoint:
                    self._remove(resource_id)

    def capacity_changed(self, endpoint: Endpoint) -> None:
        """Take over an endpoint's capacity; once a change is done, one that waited for it follows.

        Scale-out cooldowns start once all instances are in service.
        """
        resource_id = scalable_id(endpoint.name, endpoint.plan.variant)
        with self._lock:
            target = self._targets.get(resource_id)
            if target is None:
                return
            now = self._observe(target, endpoint)
            if now.status == EndpointStatus.IN_SERVICE:
                for activity in target.activities:
                    if activity["StatusCode"] == "InProgress":
                        activity |= {
                            "StatusCode": "Successful",
                            "EndTime": self._clock.now_s(),
                            "StatusMessage": (
                                f"Successfully set desired instance count to {now.desired}. "
                                "Change successfully fulfilled by sagemaker."
                            ),
                        }
                        self._keep(activity)
            now_s, cause, changed = self._clock.now_s(), target.awaited, False
            if cause is not None and not target.scaler.refuses_change(now_s):
                target.awaited = None
                if target.scaler.clamp(now_s):
                    changed = self._set_capacity(target, endpoint, cause)
            self._save(resource_id)
        if changed:
            endpoint.settle()

    def alarm_fired(self, policy_arn: str, alarm: str, metric: float, threshold: float) -> str:
        """Run the policy that is an action of an alarm in ALARM.

        Returns:
            The outcome, as a sentence.
        """
        with self._lock:
            found = self._by_policy(policy_arn)
            if found is None:
                return f"no scaling policy has the ARN {policy_arn}"
            target, document = found
            endpoint = self._endpoint(target.document["ResourceId"])
            request = Request(_policy(document)[0], metric, threshold)
            said, changed = self._run_policy(target, endpoint, request, alarm)
        if changed:
            endpoint.settle()
        return said

    def run_schedules(self, after_s: float, until_s: float) -> None:
        """Apply the scheduled actions due in (after_s, until_s]: their bounds stay."""
        changed = []
        with self._lock:
            for resource_id, target in self._targets.items():
                for name, schedule in list(target.schedules.items()):
                    due = schedules.times(
                        schedule["Schedule"], schedule["Timezone"], after_s, until_s
                    )
                    if any(True for _ in due):
                        endpoint = self._endpoint(resource_id)
                        if self._apply_schedule(target, endpoint, name):
                            changed.append(endpoint)
        for endpoint in changed:
            endpoint.settle()

    def restore_alarms(self) -> None:
        """After a restart: create the alarms of target tracking again; no journal keeps them."""
        for resource_id, target in self._targets.items():
            for document in target.policies.values():
                if document["PolicyType"] == "TargetTrackingScaling":
                    document["Alarms"] = self._tracking_alarms(resource_id, document)

    # Decisions return whether they changed the capacity. The caller calls `endpoint.settle()` after
    # it released the lock, since SageMaker's lock must be taken before this one.

    def _apply_schedule(self, target: ScalableTarget, endpoint: Endpoint, name: str) -> bool:
        if target.document["SuspendedState"]["ScheduledScalingSuspended"]:
            return False
        action = target.schedules[name].get("ScalableTargetAction", {})
        low = action.get("MinCapacity", target.scaler.minimum)
        high = action.get("MaxCapacity", target.scaler.maximum)
        target.document |= {"MinCapacity": low, "MaxCapacity": high}
        cause = f"scheduled action {name} was executed"
        changed = self._set_bounds(target, endpoint, low, high, cause)
        self._save(target.document["ResourceId"])
        return changed

    def _observe(self, target: ScalableTarget, endpoint: Endpoint) -> Capacity:
        """Take over the endpoint's capacity, which an update or a person may have changed."""
        now = endpoint.capacity
        target.scaler.deploying = now.deploying
        if not now.deploying:
            target.scaler.observe(
                now.desired, now.in_service, now.scale_in_ends_s, self._clock.now_s()
            )
        return now

    def _set_bounds(
        self, target: ScalableTarget, endpoint: Endpoint, low: int, high: int, cause: str
    ) -> bool:
        """Set bounds immediately, and the capacity too unless a change in progress forbids it."""
        self._observe(target, endpoint)
        target.awaited = None
        scaler = target.scaler
        if scaler.set_bounds(low, high, self._clock.now_s()):
            return self._set_capacity(target, endpoint, cause)
        if not low <= scaler.desired <= high:
            target.awaited = cause
            self._refused(target, endpoint, cause, min(max(scaler.desired, low), high))
        return False

    def _run_policy(
        self, target: ScalableTarget, endpoint: Endpoint, request: Request, alarm: str
    ) -> tuple[str, bool]:
        """Returns the outcome, as a sentence, and whether the capacity changed."""
        cause = f"monitor alarm {alarm} in state ALARM triggered policy {request.policy.name}"
        suspended = target.document["SuspendedState"]
        if endpoint.status in (EndpointStatus.FAILED, EndpointStatus.DELETING):
            return f"endpoint is {endpoint.status}", False
        self._observe(target, endpoint)
        before = target.scaler.desired
        (decision,) = target.scaler.decide([request], self._clock.now_s())
        grows = target.scaler.desired > before
        if (
            decision.verdict == Verdict.SCALED
            and suspended["DynamicScalingOutSuspended" if grows else "DynamicScalingInSuspended"]
        ):
            self._observe(target, endpoint)
            return "dynamic scaling is suspended", False
        said, changed = decision.reason, False
        if decision.verdict == Verdict.SCALED:
            changed = self._set_capacity(target, endpoint, cause)
        elif decision.verdict == Verdict.CHANGE_IN_PROGRESS:
            said = self._refused(target, endpoint, cause, decision.wanted)
        else:
            self._ignored(target, cause, decision)
        self._save(target.document["ResourceId"])
        return said, changed

    def _set_capacity(self, target: ScalableTarget, endpoint: Endpoint, cause: str) -> bool:
        desired = target.scaler.desired
        if not endpoint.set_desired(desired):
            # A person changed it in the meantime.
            self._observe(target, endpoint)
            self._refused(target, endpoint, cause, desired)
            return False
        description = f"Setting desired instance count to {desired}."
        activity = self._activity(target, cause, "InProgress", description)
        activity["StatusMessage"] = (
            f"Successfully set desired instance count to {desired}. "
            "Waiting for change to be fulfilled by sagemaker."
        )
        self._keep(activity)
        return True

    def _refused(self, target: ScalableTarget, endpoint: Endpoint, cause: str, wanted: int) -> str:
        """Record a failed activity; a repeated refusal extends the one before.

        Returns:
            SageMaker's message.
        """
        message = (
            f"Failed to set desired instance count to {wanted}. "
            f"Reason: {change_refused(self._region, endpoint.name)}"
        )
        description = f"Setting desired instance count to {wanted}."
        activity = self._repeated(target, cause, "Failed")
        if activity is None:
            activity = self._activity(target, cause, "Failed", description)
        activity |= {
            "Description": description,
            "StatusMessage": message,
            "EndTime": self._clock.now_s(),
        }
        self._keep(activity)
        return message

    def _repeated(
        self, target: ScalableTarget, cause: str, status: ActivityStatus
    ) -> Activity | None:
        """The activity with this cause and outcome, if there was one since the last change."""
        for activity in reversed(target.activities):
            if activity["StatusCode"] != "Failed" and "NotScaledReasons" not in activity:
                return None
            if activity["Cause"] == cause and activity["StatusCode"] == status:
                return activity
        return None

    def _ignored(self, target: ScalableTarget, cause: str, decision: Decision) -> None:
        description = f"Nothing was scaled: {decision.reason}"
        repeated = self._repeated(target, cause, "Successful")
        if repeated is not None:
            repeated |= {"Description": description, "EndTime": self._clock.now_s()}
            self._keep(repeated)
            return
        activity = self._activity(target, cause, "Successful", description)
        activity |= {
            "EndTime": self._clock.now_s(),
            "NotScaledReasons": [
                {
                    "Code": _NOT_SCALED.get(decision.verdict, "AlreadyAtDesiredCapacity"),
                    "CurrentCapacity": decision.before,
                    "MaxCapacity": target.scaler.maximum,
                    "MinCapacity": target.scaler.minimum,
                }
            ],
        }
        self._keep(activity)

    def _activity(
        self, target: ScalableTarget, cause: str, status: ActivityStatus, description: str
    ) -> Activity:
        activity: Activity = {
            "ActivityId": str(uuid.uuid4()),
            "ServiceNamespace": SERVICE_NAMESPACE,
            "ResourceId": target.document["ResourceId"],
            "ScalableDimension": SCALABLE_DIMENSION,
            "Cause": cause,
            "StartTime": self._clock.now_s(),
            "Description": description,
            "StatusCode": status,
        }
        target.activities.append(activity)
        for dropped in target.activities[:-KEPT_ACTIVITIES]:
            self._forget(dropped)
        del target.activities[:-KEPT_ACTIVITIES]
        return activity

    def _keep(self, activity: Activity) -> None:
        """Save an activity that is new or has changed."""
        self._journal.save(f"{self._region}/scaling-activity", _in_order(activity), activity)

    def _forget(self, activity: Activity) -> None:
        self._journal.delete(f"{self._region}/scaling-activity", _in_order(activity))

    def _tracking_alarms(
        self, resource_id: str, document: PolicyDocument
    ) -> list[types.AlarmTypeDef]:
        policy, tracked = _policy(document)
        assert isinstance(policy, TargetTracking)
        assert tracked is not None
        self._delete_alarms([alarm["AlarmName"] for alarm in document["Alarms"]])
        made: list[types.AlarmTypeDef] = []
        high_and_low = zip(("High", "Low"), tracking_alarms(policy, self._unsettled), strict=True)
        for level, rule in high_and_low:
            if rule is None:
                continue
            name = f"TargetTracking-{resource_id}-Alarm{level}-{uuid.uuid4()}"
            alarm = documents.alarm_document(rule, tracked)
            self._put_alarm(name, alarm, document["PolicyARN"])
            made.append(
                {
                    "AlarmName": name,
                    "AlarmARN": self._arn("cloudwatch", f"alarm:{name}"),
                }
            )
        return made

    def _endpoint(self, resource_id: str) -> Endpoint:
        try:
            name, variant = scaled_variant(resource_id)
        except ValueError:
            name, variant = "", ""
        endpoint = self._endpoints().get(name)
        if endpoint is None or endpoint.plan.variant != variant:
            raise validation_error(f"SageMaker resource doesn't exist: {resource_id}")
        return endpoint

    def _target(self, resource_id: str) -> ScalableTarget:
        if resource_id not in self._targets:
            raise _not_found(
                f"No scalable target found for service namespace: sagemaker, resource ID: "
                f"{resource_id}, scalable dimension: {SCALABLE_DIMENSION}"
            )
        return self._targets[resource_id]

    def _by_policy(self, arn: str) -> tuple[ScalableTarget, PolicyDocument] | None:
        for target in self._targets.values():
            for document in target.policies.values():
                if document["PolicyARN"] == arn:
                    return target, document
        return None

    def _by_arn(self, wanted: str) -> tuple[str, ScalableTarget]:
        for resource_id, target in self._targets.items():
            if target.document["ScalableTargetARN"] == wanted:
                return resource_id, target
        raise AwsError("ResourceNotFoundException", f"The resource {wanted} was not found")

    def _remove(self, resource_id: str) -> None:
        target = self._targets.pop(resource_id)
        for document in target.policies.values():
            self._delete_alarms([alarm["AlarmName"] for alarm in document["Alarms"]])
        for activity in target.activities:
            self._forget(activity)
        self._journal.delete(f"{self._region}/scalable-target", resource_id)

    def _arn(self, service: str, resource: str) -> str:
        return arn(service, resource, region=self._region, account_id=ACCOUNT_ID)

    def _target_arn(self) -> str:
        return self._arn("application-autoscaling", f"scalable-target/{uuid.uuid4().hex[:16]}")

    def _policy_arn(self, resource_id: str, name: str) -> str:
        owned = f"resource/{SERVICE_NAMESPACE}/{resource_id}:policyName/{name}"
        return self._arn("autoscaling", f"scalingPolicy:{uuid.uuid4()}:{owned}")

    def _save(self, resource_id: str) -> None:
        target = self._targets.get(resource_id)
        if target is None:
            return
        saved: _Saved = {
            "document": target.document,
            "policies": target.policies,
            "schedules": target.schedules,
            "awaited": target.awaited,
            "desired": target.scaler.desired,
            "cooldowns": target.scaler.cooldowns(),
        }
        self._journal.save(f"{self._region}/scalable-target", resource_id, saved)

    def _restored(self, saved: _Saved) -> ScalableTarget:
        document = saved["document"]
        scaler = Autoscaler(
            document["MinCapacity"], document["MaxCapacity"], saved["desired"], self._unsettled
        )
        target = ScalableTarget(
            document,
            scaler,
            saved["policies"],
            saved["schedules"],
            awaited=saved.get("awaited"),
        )
        policies = [_policy(policy)[0] for policy in target.policies.values()]
        scaler.restore(policies, saved["cooldowns"])
        return target


_NOT_SCALED = {
    Verdict.AT_MAXIMUM: "AlreadyAtMaxCapacity",
    Verdict.AT_MINIMUM: "AlreadyAtMinCapacity",
    Verdict.NOTHING_TO_CHANGE: "AlreadyAtDesiredCapacity",
    Verdict.SCALE_OUT_COOLDOWN: "AutoScalingAnticipatedFlapping",
    Verdict.SCALE_IN_COOLDOWN: "AutoScalingAnticipatedFlapping",
}
"""The nearest reason code of AAS NotScaledReason for each verdict."""


def _policy(document: PolicyDocument) -> tuple[DeployedPolicy, documents.MetricStat | None]:
    try:
        return documents.policy(document)
    except ValueError as error:
        raise validation_error(str(error)) from error


def _service_role() -> str:
    role = "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
    return arn("iam", f"role/aws-service-role/{SCALING_SERVICE}/{role}", account_id=ACCOUNT_ID)


def _in_order(activity: Activity) -> str:
    """The activity's name in the journal, by which those of a target come in order of time."""
    return f"{activity['ResourceId']} {activity['StartTime']:017.3f} {activity['ActivityId']}"


def _not_found(message: str) -> AwsError:
    return AwsError("ObjectNotFoundException", message)


def _page(request: _PagedRequest, items: Sequence[Item]) -> tuple[list[Item], _More]:
    """The page of a list that a request asks for, and the token of the next one, if there is one.

    Raises:
        AwsError: the token is not one of these.
    """
    token = request.get("NextToken", "0")
    if not token.isdigit():
        raise AwsError("InvalidNextTokenException", "The next token is not valid")
    start, size = int(token), min(request.get("MaxResults", 50), 50)
    end = start + size
    more: _More = {"NextToken": str(end)} if end < len(items) else {}
    return list(items[start:end]), more
