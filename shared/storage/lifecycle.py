"""The bucket's own clean-up: the net under the gateway's purges."""

import math
from datetime import timedelta

import urllib3
from loguru import logger
from minio import Minio
from minio.commonconfig import ENABLED, Filter
from minio.error import MinioException
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule

RULE_ID = "meshwork-retention"


def expire_objects(client: Minio, bucket: str, prefix: str, age: timedelta) -> None:
    """Lets the bucket expire what lies under `prefix` after `age`, beside any other rules that it has.

    A store that has no lifecycle rules, or drops ours, is no reason not to start: the gateway purges by itself.
    """
    days = math.ceil(age / timedelta(days=1))
    try:
        if days_kept(client, bucket) == days:
            return
        ours = Rule(ENABLED, rule_filter=Filter(prefix=prefix), rule_id=RULE_ID, expiration=Expiration(days=days))
        client.set_bucket_lifecycle(bucket, LifecycleConfig([*_rules_of_others(client, bucket), ours]))
        if days_kept(client, bucket) != days:
            logger.warning("the store did not keep the lifecycle rule; only the gateway removes old artifacts")
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        logger.warning("the store takes no lifecycle rule ({}); only the gateway removes old artifacts", type(error).__name__)


def days_kept(client: Minio, bucket: str) -> int | None:
    """After how many days our rule expires objects; None where there is no such rule."""
    expirations = [rule.expiration for rule in _rules(client, bucket) if rule.rule_id == RULE_ID]
    return expirations[0].days if expirations and expirations[0] else None


def _rules_of_others(client: Minio, bucket: str) -> list[Rule]:
    return [rule for rule in _rules(client, bucket) if rule.rule_id != RULE_ID]


def _rules(client: Minio, bucket: str) -> list[Rule]:
    config = client.get_bucket_lifecycle(bucket)
    return list(config.rules) if config is not None else []
