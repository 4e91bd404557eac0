"""How Application Auto Scaling decides a capacity (AAS user guide and API reference).

Each rule is stated once, as a plain function on numbers and arrays. Most callers use it as it is;
the simulator compiles it. `Autoscaler` applies the rules to one scalable target.

Each policy has its own cooldowns. A scale-out cooldown starts when all the new instances are in
service. Until it ends, the capacity that it added counts towards the policy's next scale-out. A
scale-in cooldown blocks further scale-ins until it ends, or until any policy scales out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Self

from async_inference.scaling.plan import (
    AdjustmentType,
    AlarmRule,
    Comparison,
    DeployedPolicy,
    StepScaling,
    TargetTracking,
)
from async_inference.scaling.rules import rule
from async_inference.scaling.unsettled import Unsettled

TRACKING_PERIOD_S = 60
"""The period of target tracking's alarms (docs/aws-facts.md#target-tracking)."""
HIGH_ALARM_PERIODS = 3
"""Target tracking scales out after 3 of 3 minutes above the target
(docs/aws-facts.md#target-tracking)."""
LOW_ALARM_PERIODS = 15
"""Target tracking scales in after 15 of 15 minutes below a fraction of the target
(docs/aws-facts.md#target-tracking)."""

ADJUSTMENT_CODES = {adjustment: code for code, adjustment in enumerate(AdjustmentType)}
_CHANGE, _PERCENT, _EXACT = (ADJUSTMENT_CODES[adjustment] for adjustment in AdjustmentType)


class Verdict(IntEnum):
    """The outcome of a policy's request to scale."""

    SCALED = 0
    NOTHING_TO_CHANGE = 1
    NO_STEP_COVERS = 2
    AT_MAXIMUM = 3
    AT_MINIMUM = 4
    SCALE_OUT_COOLDOWN = 5
    SCALE_IN_COOLDOWN = 6
    OUTBID = 7
    NEVER_FROM_ZERO = 8
    CHANGE_IN_PROGRESS = 9


_SCALED, _NOTHING, _NO_STEP, _AT_MAXIMUM, _AT_MINIMUM, _OUT_COOLDOWN, _IN_COOLDOWN, _, _, _ = (
    int(verdict) for verdict in Verdict
)
CHANGE_REFUSED = "Cannot update in-progress endpoint"
"""SageMaker's error for a capacity change during another one (public live runs)."""

NO_STEP_COVERS = -1
"""`stepped_capacity` returns this when no step covers the breach."""


class Step(NamedTuple):
    """A step's adjustment and bounds; a bound that the policy leaves open is infinite."""

    lower: float
    upper: float
    adjustment: float


@dataclass
class Cooldown:
    """The state of one policy's cooldowns.

    Args:
        out_cooldown_s: length of the scale-out cooldown.
        in_cooldown_s: length of the scale-in cooldown.
        out_origin: capacity before the scale-out whose cooldown is running.
        out_until_s: end of that cooldown; infinite while instances are starting.
        in_until_s: end of the scale-in cooldown.
    """

    out_cooldown_s: float
    in_cooldown_s: float
    out_origin: int = 0
    out_until_s: float = -math.inf
    in_until_s: float = -math.inf

    @classmethod
    def of(cls, policy: DeployedPolicy) -> Self:
        """The cooldowns of a policy that has not scaled yet."""
        if isinstance(policy, TargetTracking):
            return cls(float(policy.scale_out_cooldown_s), float(policy.scale_in_cooldown_s))
        return cls(float(policy.cooldown_s), float(policy.cooldown_s))


@rule
def stepped_capacity(current, difference, adjustment_type, steps, min_magnitude):
    """The capacity that a step policy asks for, before bounds; NO_STEP_COVERS if no step applies.

    Above the threshold a step includes its lower bound and excludes its upper one; below the
    threshold it is the reverse. A change of less than one instance rounds away from zero, a larger
    one towards zero.

    Args:
        current: instances now.
        difference: metric value minus threshold.
        adjustment_type: an ADJUSTMENT_CODES code.
        steps: the policy's steps, each a `Step`.
        min_magnitude: smallest change that a percentage makes, 0 if there is none.
    """
    for index in range(len(steps)):
        step = steps[index]
        above = difference >= 0 and step.lower <= difference < step.upper
        below = difference <= 0 and step.lower < difference <= step.upper
        if not (above or below):
            continue
        adjustment = step.adjustment
        if adjustment_type == _EXACT:
            return int(adjustment)
        if adjustment_type == _CHANGE:
            return max(0, int(current + adjustment))
        change = current * adjustment / 100.0
        whole = math.floor(abs(change))
        if 0 < abs(change) < 1:
            whole = 1
        if whole > 0:
            whole = max(whole, min_magnitude)
        return max(0, int(current + (whole if change > 0 else -whole)))
    return NO_STEP_COVERS


@rule
def tracked_capacity(current, metric, target, scales_in):
    """The capacity at which a metric that falls with the capacity would be at its target.

    AWS does not publish its formula. This one is proportional to the newest datapoint and rounds
    up, for scale-out and scale-in. At 0 instances the metric is the whole backlog, so it counts as
    one instance's. The high alarm never removes instances and the low one (`scales_in`) never adds
    any, even if the metric has crossed the target since the alarm fired.
    """
    asked = math.ceil(max(1, current) * metric / target - 1e-9)
    return min(asked, current) if scales_in else max(asked, current)


@rule
def bid(cooldown, asked, current, minimum, maximum, now_s):
    """The capacity that a policy gets, given its cooldowns and the bounds.

    Args:
        cooldown: the policy's `Cooldown`.
        asked: the capacity that it asks for, computed from `current`.
        current, minimum, maximum: instances now, and the bounds.
        now_s: the time.

    Returns:
        Desired capacity and a `Verdict`.
    """
    if asked > current:
        if current >= maximum:
            return current, _AT_MAXIMUM
        if now_s < cooldown.out_until_s:
            asked = min(cooldown.out_origin, current) + (asked - current)
            if asked <= current:
                return current, _OUT_COOLDOWN
        return min(asked, maximum), _SCALED
    if asked < current:
        if current <= minimum:
            return current, _AT_MINIMUM
        if now_s < cooldown.in_until_s:
            return current, _IN_COOLDOWN
        return max(asked, minimum), _SCALED
    return current, _NOTHING


@rule
def winner(current, bids):
    """Index of the largest bid, for scale-out and scale-in alike; -1 if none is a change."""
    best = -1
    for policy in range(len(bids)):
        desired = bids[policy]
        if desired == current:
            continue
        if best < 0 or desired > bids[best]:
            best = policy
    return best


@rule
def change_in_progress(now_s, desired, in_service, scale_in_ends_s):
    """Whether a capacity change is in progress, so that the endpoint's status is Updating.

    A scale-out lasts until every requested instance is in service, however long AWS is short of
    capacity. A scale-in lasts `Unsettled.scale_in_takes_s`. (SageMaker API reference,
    UpdateEndpointWeightsAndCapacities: the status is Updating until the change is done.)
    `Unsettled.capacity_change_in_progress` says what happens to a second change.

    Args:
        now_s: the time.
        desired: instances requested.
        in_service: instances in service.
        scale_in_ends_s: when the latest scale-in is done.
    """
    return in_service < desired or now_s < scale_in_ends_s


@rule
def start_cooldown(cooldowns, policy, current, desired, now_s):
    """Start the cooldown of a policy that changed the capacity from `current` to `desired`.

    Args:
        cooldowns: every policy's `Cooldown`.
        policy: index of the policy that changed the capacity.
        current, desired: instances before and after.
        now_s: the time.
    """
    own = cooldowns[policy]
    if desired > current:
        if now_s >= own.out_until_s:
            own.out_origin = current
        else:
            own.out_origin = min(own.out_origin, current)
        own.out_until_s = math.inf
        for index in range(len(cooldowns)):
            cooldowns[index].in_until_s = -math.inf
    else:
        own.in_until_s = now_s + own.in_cooldown_s


@rule
def finish_scale_out(cooldowns, now_s):
    """Start the scale-out cooldowns that waited for all requested instances to be in service."""
    for index in range(len(cooldowns)):
        cooldown = cooldowns[index]
        if cooldown.out_until_s == math.inf:
            cooldown.out_until_s = now_s + cooldown.out_cooldown_s


def tracking_alarms(
    policy: TargetTracking, unsettled: Unsettled
) -> tuple[AlarmRule, AlarmRule | None]:
    """The two alarms that AWS creates for target tracking: high and low.

    There is no low alarm if scale-in is disabled. Both watch the policy's metric, minute by minute
    (`TRACKING_PERIOD_S`).
    """
    high = AlarmRule(
        comparison=Comparison.GREATER,
        threshold=policy.target,
        evaluation_periods=HIGH_ALARM_PERIODS,
        datapoints_to_alarm=HIGH_ALARM_PERIODS,
    )
    if policy.disable_scale_in:
        return high, None
    low = high.model_copy(
        update={
            "comparison": Comparison.LESS,
            "threshold": policy.target * unsettled.scale_in_ratio,
            "evaluation_periods": LOW_ALARM_PERIODS,
            "datapoints_to_alarm": LOW_ALARM_PERIODS,
        }
    )
    return high, low


def steps_of(policy: StepScaling) -> list[Step]:
    """A policy's steps, for `stepped_capacity`."""
    return [
        Step(
            -math.inf if step.lower_bound is None else step.lower_bound,
            math.inf if step.upper_bound is None else step.upper_bound,
            float(step.adjustment),
        )
        for step in policy.steps
    ]


@dataclass(frozen=True)
class Request:
    """A policy is asked to scale, because its alarm is in ALARM."""

    policy: DeployedPolicy
    metric: float
    """The newest datapoint of the alarm's metric."""
    threshold: float
    """The alarm's threshold; that of target tracking's low alarm is below the target."""


@dataclass(frozen=True)
class Decision:
    """The outcome of a scaling request: the capacity afterwards, and why."""

    policy: DeployedPolicy
    verdict: Verdict
    before: int
    desired: int
    reason: str
    wanted: int
    """What the policy asked for, within the bounds, even if a change in progress prevented it."""


class Autoscaler:
    """One scalable target: its bounds, its desired capacity and its policies' cooldowns.

    New bounds apply immediately. If a capacity change is in progress and SageMaker refuses another,
    `clamp` adapts the capacity once that change is done.

    Args:
        minimum, maximum: the target's bounds.
        desired: instances requested; all of them are assumed to be in service.
        unsettled: the reading of undocumented AWS behaviour.
    """

    def __init__(self, minimum: int, maximum: int, desired: int, unsettled: Unsettled) -> None:
        self.minimum = minimum
        self.maximum = maximum
        self.desired = desired
        self._in_service = desired
        self._scale_in_ends_s = -math.inf
        self.deploying = False
        """Whether an endpoint configuration is being deployed, which blocks scaling under every
        reading (AWS's page on updating endpoints that use automatic scaling)."""
        self._unsettled = unsettled
        self._names: list[str] = []
        self._cooldowns: list[Cooldown] = []

    def decide(self, requests: Sequence[Request], now_s: float) -> list[Decision]:
        """Decide on the requests of all policies at one moment; the largest capacity wins.

        Returns:
            A decision for each request; at most one of them changes the capacity.
        """
        current = self.desired
        indexes = [self._index(request.policy) for request in requests]
        bids, verdicts = [], []
        for index, request in zip(indexes, requests, strict=True):
            desired, verdict = self._bid(index, request, now_s)
            bids.append(desired)
            verdicts.append(verdict)
        wanted = list(bids)
        best = winner(current, bids)
        if best >= 0 and self.refuses_change(now_s):
            for position, verdict in enumerate(verdicts):
                if verdict == Verdict.SCALED:
                    bids[position], verdicts[position] = current, Verdict.CHANGE_IN_PROGRESS
            best = -1
        if best >= 0:
            start_cooldown(self._cooldowns, indexes[best], current, bids[best], now_s)
            self._set(int(bids[best]), now_s)
        decisions = []
        for position, request in enumerate(requests):
            verdict = verdicts[position]
            if verdict == Verdict.SCALED and position != best:
                verdict = Verdict.OUTBID
            reason = self._reason(indexes[position], request, verdict, current, now_s)
            decisions.append(
                Decision(
                    request.policy,
                    verdict,
                    current,
                    int(bids[position]),
                    reason,
                    int(wanted[position]),
                )
            )
        return decisions

    def in_service(self, instances: int, now_s: float) -> None:
        """Record how many instances serve; a scale-out succeeds once all requested ones do."""
        self._in_service = instances
        if instances >= self.desired:
            finish_scale_out(self._cooldowns, now_s)

    def observe(self, desired: int, in_service: int, scale_in_ends_s: float, now_s: float) -> None:
        """Adopt the endpoint's capacity, which an update or a person may have changed."""
        self.desired = desired
        self._scale_in_ends_s = scale_in_ends_s
        self.in_service(in_service, now_s)

    def refuses_change(self, now_s: float) -> bool:
        """Whether SageMaker would refuse a capacity change now."""
        if self.deploying:
            return True
        return self._unsettled.capacity_change_in_progress == "refused" and change_in_progress(
            now_s, self.desired, self._in_service, self._scale_in_ends_s
        )

    @property
    def scale_in_ends_s(self) -> float:
        """When the latest scale-in is done; minus infinity if there was none."""
        return self._scale_in_ends_s

    def set_bounds(self, minimum: int, maximum: int, now_s: float) -> bool:
        """Set new bounds, as a scheduled action or a registration does, and adapt the capacity.

        Returns:
            Whether the capacity changed.
        """
        self.minimum, self.maximum = minimum, maximum
        return self.clamp(now_s)

    def clamp(self, now_s: float) -> bool:
        """Bring the capacity within the bounds, unless a change in progress prevents it.

        Returns:
            Whether the capacity changed.
        """
        within = min(max(self.desired, self.minimum), self.maximum)
        if within == self.desired or self.refuses_change(now_s):
            return False
        self._set(within, now_s)
        return True

    def _set(self, desired: int, now_s: float) -> None:
        if desired < self.desired:
            self._scale_in_ends_s = now_s + self._unsettled.scale_in_takes_s
        self.desired = desired

    def cooldowns(self) -> dict[str, tuple[int, float, float]]:
        """By policy: start capacity and end of the scale-out cooldown, end of the scale-in's."""
        return {
            name: (cooldown.out_origin, cooldown.out_until_s, cooldown.in_until_s)
            for name, cooldown in zip(self._names, self._cooldowns, strict=True)
        }

    def restore(self, policies: Sequence[DeployedPolicy], saved: dict) -> None:
        """Restore what `cooldowns` returned, for the policies that still exist."""
        for policy in policies:
            if policy.name in saved:
                cooldown = self._cooldowns[self._index(policy)]
                cooldown.out_origin, cooldown.out_until_s, cooldown.in_until_s = saved[policy.name]

    def _index(self, policy: DeployedPolicy) -> int:
        now = Cooldown.of(policy)
        if policy.name not in self._names:
            self._names.append(policy.name)
            self._cooldowns.append(now)
        index = self._names.index(policy.name)
        cooldown = self._cooldowns[index]
        # Putting a policy again may change how long its cooldowns last.
        cooldown.out_cooldown_s, cooldown.in_cooldown_s = now.out_cooldown_s, now.in_cooldown_s
        return index

    def _bid(self, index: int, request: Request, now_s: float) -> tuple[int, Verdict]:
        policy = request.policy
        if isinstance(policy, StepScaling):
            asked = stepped_capacity(
                self.desired,
                request.metric - request.threshold,
                ADJUSTMENT_CODES[policy.adjustment_type],
                steps_of(policy),
                policy.min_adjustment_magnitude or 0,
            )
            if asked == NO_STEP_COVERS:
                return self.desired, Verdict.NO_STEP_COVERS
        else:
            scales_in = request.threshold < policy.target
            never = self._unsettled.target_tracking_from_zero == "never"
            if self.desired == 0 and never and not scales_in:
                return 0, Verdict.NEVER_FROM_ZERO
            asked = tracked_capacity(self.desired, request.metric, policy.target, scales_in)
        cooldown = self._cooldowns[index]
        desired, verdict = bid(cooldown, asked, self.desired, self.minimum, self.maximum, now_s)
        return int(desired), Verdict(verdict)

    def _reason(
        self, index: int, request: Request, verdict: Verdict, current: int, now_s: float
    ) -> str:
        policy = request.policy
        match verdict:
            case Verdict.SCALED:
                return f"policy {policy.name} set the capacity from {current} to {self.desired}"
            case Verdict.NOTHING_TO_CHANGE:
                return f"policy {policy.name} asks for {current} instances, the present capacity"
            case Verdict.NO_STEP_COVERS:
                breach = request.metric - request.threshold
                return f"policy {policy.name} has no step for a breach of {breach:g}"
            case Verdict.AT_MAXIMUM:
                return f"the capacity is at its maximum of {self.maximum}"
            case Verdict.AT_MINIMUM:
                return f"the capacity is at its minimum of {self.minimum}"
            case Verdict.SCALE_OUT_COOLDOWN:
                until_s = self._cooldowns[index].out_until_s
                if math.isinf(until_s):
                    return f"the instances that policy {policy.name} added are still starting"
                return f"policy {policy.name} is in cooldown for {until_s - now_s:.0f} s more"
            case Verdict.SCALE_IN_COOLDOWN:
                left_s = self._cooldowns[index].in_until_s - now_s
                return f"policy {policy.name} is in cooldown for {left_s:.0f} s more"
            case Verdict.OUTBID:
                return f"another policy asks for more instances than {policy.name}"
            case Verdict.NEVER_FROM_ZERO:
                return "target tracking never leaves zero (target_tracking_from_zero=never)"
            case Verdict.CHANGE_IN_PROGRESS:
                return f"{CHANGE_REFUSED}: the change to {current} instances is still in progress"
