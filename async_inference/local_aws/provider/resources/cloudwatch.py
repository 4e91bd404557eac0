"""Alarms, dashboards and log groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from async_inference.local_aws.provider.resources.kind import (
    Autoname,
    Kind,
    Parameters,
    Properties,
    given,
    retag,
    tag_list,
    tags_of,
    unless_gone,
)

if TYPE_CHECKING:
    from types_boto3_cloudwatch import CloudWatchClient
    from types_boto3_cloudwatch.type_defs import DimensionTypeDef
    from types_boto3_logs import CloudWatchLogsClient

_ALARM: dict[str, str] = {
    "alarmDescription": "AlarmDescription",
    "namespace": "Namespace",
    "metricName": "MetricName",
    "statistic": "Statistic",
    "comparisonOperator": "ComparisonOperator",
    "threshold": "Threshold",
    "period": "Period",
    "evaluationPeriods": "EvaluationPeriods",
    "datapointsToAlarm": "DatapointsToAlarm",
    "treatMissingData": "TreatMissingData",
    "alarmActions": "AlarmActions",
    "okActions": "OKActions",
}
_WHOLE_NUMBERS = ("Period", "EvaluationPeriods", "DatapointsToAlarm")


class MetricAlarm(Kind["CloudWatchClient"]):
    type = "aws:cloudwatch/metricAlarm:MetricAlarm"
    service = "cloudwatch"
    replaces = frozenset({"name"})
    autoname = Autoname("name", 255)

    def create(self, aws: CloudWatchClient, p: Properties) -> str:
        request: Parameters = {_ALARM[key]: p[key] for key in _ALARM if p.get(key) is not None}
        request |= {key: int(request[key]) for key in _WHOLE_NUMBERS if key in request}
        if p.get("metricQueries"):
            request["Metrics"] = [_metric_query(query) for query in p["metricQueries"]]
        else:
            request["Dimensions"] = _dimensions(p.get("dimensions") or {})
        aws.put_metric_alarm(AlarmName=p["name"], Tags=tag_list(p), **request)
        return p["name"]

    def read(self, aws: CloudWatchClient, identity: str, p: Properties) -> Properties | None:
        found = aws.describe_alarms(AlarmNames=[identity])["MetricAlarms"]
        if not found:
            return None
        alarm: Parameters = {**found[0]}
        read = {key: alarm[name] for key, name in _ALARM.items() if key in p and name in alarm}
        if "dimensions" in p:
            read["dimensions"] = {d["Name"]: d["Value"] for d in alarm["Dimensions"]}
        return {**read, "name": identity, "arn": alarm["AlarmArn"]}

    def delete(self, aws: CloudWatchClient, identity: str, p: Properties) -> None:
        unless_gone(aws.delete_alarms, AlarmNames=[identity])


def _dimensions(values: dict[str, str]) -> list[DimensionTypeDef]:
    return [{"Name": name, "Value": value} for name, value in values.items()]


def _metric_query(query: Properties) -> Parameters:
    written = {
        key[0].upper() + key[1:]: value
        for key, value in query.items()
        if key != "metric" and value is not None
    }
    metric = query.get("metric")
    if metric is None:
        return written
    return written | {
        # An input of an expression, unless it says otherwise (TF aws_cloudwatch_metric_alarm).
        "ReturnData": query.get("returnData") or False,
        "MetricStat": {
            "Metric": {
                "Namespace": metric["namespace"],
                "MetricName": metric["metricName"],
                "Dimensions": _dimensions(metric["dimensions"]),
            },
            "Period": int(metric["period"]),
            "Stat": metric["stat"],
        },
    }


class Dashboard(Kind["CloudWatchClient"]):
    type = "aws:cloudwatch/dashboard:Dashboard"
    service = "cloudwatch"
    replaces = frozenset({"dashboardName"})
    computed = frozenset({"dashboardArn"})

    def create(self, aws: CloudWatchClient, p: Properties) -> str:
        aws.put_dashboard(DashboardName=p["dashboardName"], DashboardBody=p["dashboardBody"])
        return p["dashboardName"]

    def read(self, aws: CloudWatchClient, identity: str, p: Properties) -> Properties | None:
        found = unless_gone(aws.get_dashboard, DashboardName=identity)
        return found and {
            "dashboardName": identity,
            "dashboardBody": found["DashboardBody"],
            "dashboardArn": found["DashboardArn"],
        }

    def delete(self, aws: CloudWatchClient, identity: str, p: Properties) -> None:
        unless_gone(aws.delete_dashboards, DashboardNames=[identity])


class LogGroup(Kind["CloudWatchLogsClient"]):
    type = "aws:cloudwatch/logGroup:LogGroup"
    deletion = ("delete_log_group", "logGroupName")
    service = "logs"
    replaces = frozenset({"name", "namePrefix", "logGroupClass"})

    def create(self, aws: CloudWatchLogsClient, p: Properties) -> str:
        aws.create_log_group(
            logGroupName=p["name"], tags=tags_of(p), **given(p, kmsKeyId="kmsKeyId")
        )
        _retain(aws, p)
        return p["name"]

    def read(self, aws: CloudWatchLogsClient, identity: str, p: Properties) -> Properties | None:
        found = aws.describe_log_groups(logGroupNamePrefix=identity)["logGroups"]
        group = next((group for group in found if group["logGroupName"] == identity), None)
        if group is None:
            return None
        arn = group["arn"].removesuffix(":*")
        return {
            "name": identity,
            "arn": arn,
            "retentionInDays": group.get("retentionInDays"),
            "tags": aws.list_tags_for_resource(resourceArn=arn)["tags"],
            **given(group, kmsKeyId="kmsKeyId"),
        }

    def update(
        self, aws: CloudWatchLogsClient, identity: str, old: Properties, new: Properties
    ) -> None:
        _retain(aws, new)
        if new.get("kmsKeyId") != old.get("kmsKeyId"):
            if new.get("kmsKeyId"):
                aws.associate_kms_key(logGroupName=identity, kmsKeyId=new["kmsKeyId"])
            else:
                aws.disassociate_kms_key(logGroupName=identity)
        retag(
            old,
            new,
            lambda keys: aws.untag_resource(resourceArn=old["arn"], tagKeys=keys),
            lambda tags: aws.tag_resource(resourceArn=old["arn"], tags=tags),
        )


def _retain(aws: CloudWatchLogsClient, p: Properties) -> None:
    if p.get("retentionInDays"):
        aws.put_retention_policy(logGroupName=p["name"], retentionInDays=int(p["retentionInDays"]))
    else:
        aws.delete_retention_policy(logGroupName=p["name"])
