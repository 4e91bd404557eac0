"""A plan with every kind of policy, alarm and schedule."""

from async_inference.scaling.plan import ScalingPlan

EVERYTHING = ScalingPlan.model_validate(
    {
        "minCapacity": 1,
        "maxCapacity": 9,
        "policies": [
            {
                "type": "StepScaling",
                "name": "percent",
                "adjustmentType": "PercentChangeInCapacity",
                "minAdjustmentMagnitude": 2,
                "metricAggregationType": "Maximum",
                "cooldownS": 0,
                "alarm": {
                    "metric": "ApproximateAgeOfOldestRequest",
                    "statistic": "Maximum",
                    "comparison": "GreaterThanThreshold",
                    "threshold": 0.1,
                    "periodS": 120,
                    "evaluationPeriods": 7,
                    "datapointsToAlarm": 3,
                    "treatMissingData": "notBreaching",
                },
                "steps": [
                    {"lowerBound": 0, "upperBound": 0.3, "adjustment": 10},
                    {"lowerBound": 0.3, "adjustment": 50},
                ],
            },
            {
                "type": "StepScaling",
                "name": "exact",
                "adjustmentType": "ExactCapacity",
                "alarm": {
                    "metric": "ApproximateBacklogSize",
                    "comparison": "LessThanOrEqualToThreshold",
                    "threshold": -2.5,
                },
                "steps": [{"upperBound": 0, "adjustment": 1}],
            },
            {
                "type": "StepScaling",
                "name": "wakes by metric math",
                "alarm": {"metric": "BacklogWithoutCapacity", "threshold": 0.5},
                "steps": [
                    {"lowerBound": 0, "upperBound": 8, "adjustment": 1},
                    {"lowerBound": 8, "adjustment": 4},
                ],
            },
            {
                "type": "TargetTrackingScaling",
                "name": "tracks",
                "metric": "ApproximateBacklogSize",
                "target": 0.7,
                "scaleOutCooldownS": 0,
                "scaleInCooldownS": 17,
                "disableScaleIn": True,
            },
        ],
        "schedules": [
            {
                "name": "morning",
                "schedule": "cron(0 7 ? * MON-FRI *)",
                "timezone": "Europe/Zurich",
                "minCapacity": 2,
            },
            {"name": "night", "schedule": "cron(0 19 * * ? *)", "maxCapacity": 3},
        ],
    }
)
