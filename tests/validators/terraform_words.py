"""Arguments and blocks of the resources that infra/terraform uses, as the AWS provider 6 documents them.

The provider itself, which `terraform validate` would ask, is in no package registry.
"""

from __future__ import annotations

_RULE = {
    "security_group_id",
    "referenced_security_group_id",
    "cidr_ipv4",
    "cidr_ipv6",
    "prefix_list_id",
    "description",
    "ip_protocol",
    "from_port",
    "to_port",
    "tags",
}

ARGUMENTS: dict[str, set[str]] = {
    "aws_caller_identity": set(),
    "aws_iam_instance_profile": {"name", "name_prefix", "path", "role", "tags"},
    "aws_iam_policy_document": {
        "statement",
        "source_policy_documents",
        "override_policy_documents",
        "policy_id",
        "version",
    },
    "aws_iam_role": {
        "name",
        "name_prefix",
        "assume_role_policy",
        "description",
        "max_session_duration",
        "path",
        "permissions_boundary",
        "tags",
    },
    "aws_iam_role_policy": {"name", "name_prefix", "role", "policy"},
    "aws_s3_bucket": {"bucket", "bucket_prefix", "force_destroy", "object_lock_enabled", "tags"},
    "aws_s3_bucket_lifecycle_configuration": {
        "bucket",
        "expected_bucket_owner",
        "rule",
        "transition_default_minimum_object_size",
    },
    "aws_s3_bucket_ownership_controls": {"bucket", "rule"},
    "aws_s3_bucket_policy": {"bucket", "policy"},
    "aws_s3_bucket_public_access_block": {
        "bucket",
        "block_public_acls",
        "block_public_policy",
        "ignore_public_acls",
        "restrict_public_buckets",
    },
    "aws_s3_bucket_server_side_encryption_configuration": {"bucket", "expected_bucket_owner", "rule"},
    "aws_s3_bucket_versioning": {"bucket", "expected_bucket_owner", "mfa", "versioning_configuration"},
    "aws_security_group": {"name", "name_prefix", "description", "vpc_id", "ingress", "egress", "tags"},
    "aws_vpc_security_group_egress_rule": _RULE,
    "aws_vpc_security_group_ingress_rule": _RULE,
}
