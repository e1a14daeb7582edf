# Three roles: a worker reads the source and writes stems; a head may also start and end workers; and only the one
# for `splitfire vacuum` deletes. The first policy is that of SECURITY.md, and a test compares the two.

locals {
  source_arn  = "arn:aws:s3:::${var.source_bucket}"
  stems       = "${aws_s3_bucket.stems.arn}/${var.stems_prefix}/*"
  issuer      = var.eks_oidc_provider_arn == null ? "" : element(split("oidc-provider/", var.eks_oidc_provider_arn), 1)
  here        = "${var.region}:${data.aws_caller_identity.current.account_id}"
  ray_cluster = "ray-cluster-name"
}

data "aws_caller_identity" "current" {}

data "aws_iam_policy_document" "worker" {
  statement {
    sid       = "ListSource"
    actions   = ["s3:ListBucket"]
    resources = [local.source_arn]
    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = [var.source_prefix, "${var.source_prefix}/*"]
    }
  }
  statement {
    sid       = "ReadSource"
    actions   = ["s3:GetObject"]
    resources = ["${local.source_arn}/${var.source_prefix}/*"]
  }
  statement {
    sid       = "ListDestination"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.stems.arn]
    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = [var.stems_prefix, "${var.stems_prefix}/*", var.weights_prefix, "${var.weights_prefix}/*"]
    }
  }
  statement {
    sid       = "WriteDestination"
    actions   = ["s3:PutObject", "s3:GetObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    resources = [local.stems]
  }
  statement {
    sid       = "ReadWeights"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.stems.arn}/${var.weights_prefix}/*"]
  }
}

data "aws_iam_policy_document" "vacuum" {
  source_policy_documents = [data.aws_iam_policy_document.worker.json]
  statement {
    sid       = "DeleteInDestination"
    actions   = ["s3:DeleteObject"]
    resources = [local.stems]
  }
  statement {
    # It knows no condition on the prefix; without it, vacuum says that it does not see such uploads.
    sid       = "SeeUploads"
    actions   = ["s3:ListBucketMultipartUploads"]
    resources = [aws_s3_bucket.stems.arn]
  }
}

data "aws_iam_policy_document" "head" {
  source_policy_documents = [data.aws_iam_policy_document.worker.json]
  statement {
    # EC2 knows no resources for these.
    sid = "SeeMachines"
    actions = [
      "ec2:DescribeImages", "ec2:DescribeInstances", "ec2:DescribeInstanceTypes", "ec2:DescribeKeyPairs",
      "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets",
    ]
    resources = ["*"]
  }
  statement {
    sid       = "StartOwnMachines"
    actions   = ["ec2:RunInstances"]
    resources = ["arn:aws:ec2:${local.here}:instance/*"]
    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/${local.ray_cluster}"
      values   = [var.name]
    }
  }
  statement {
    sid     = "WithTheseParts"
    actions = ["ec2:RunInstances"]
    resources = [
      "arn:aws:ec2:${var.region}::image/*", "arn:aws:ec2:${local.here}:key-pair/*",
      "arn:aws:ec2:${local.here}:network-interface/*", "arn:aws:ec2:${local.here}:subnet/*",
      "arn:aws:ec2:${local.here}:volume/*", aws_security_group.cluster.arn,
      "arn:aws:ec2:${local.here}:spot-instances-request/*",
    ]
  }
  statement {
    sid       = "TagWhatIsStarted"
    actions   = ["ec2:CreateTags"]
    resources = ["arn:aws:ec2:${local.here}:instance/*"]
    condition {
      test     = "StringEquals"
      variable = "ec2:CreateAction"
      values   = ["RunInstances"]
    }
  }
  statement {
    sid       = "TagAndEndOwnMachines"
    actions   = ["ec2:CreateTags", "ec2:TerminateInstances"]
    resources = ["arn:aws:ec2:${local.here}:instance/*"]
    condition {
      test     = "StringEquals"
      variable = "ec2:ResourceTag/${local.ray_cluster}"
      values   = [var.name]
    }
  }
  statement {
    # A head that could hand on any role would have them all.
    sid       = "HandOnTheWorkersRole"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.worker.arn]
    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ec2.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "machines" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
  dynamic "statement" {
    for_each = var.eks_oidc_provider_arn == null ? [] : [var.eks_oidc_provider_arn]
    content {
      actions = ["sts:AssumeRoleWithWebIdentity"]
      principals {
        type        = "Federated"
        identifiers = [statement.value]
      }
      condition {
        test     = "StringEquals"
        variable = "${local.issuer}:sub"
        values   = ["system:serviceaccount:${var.kubernetes_service_account}"]
      }
      condition {
        test     = "StringEquals"
        variable = "${local.issuer}:aud"
        values   = ["sts.amazonaws.com"]
      }
    }
  }
}

data "aws_iam_policy_document" "ec2_only" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "worker" {
  name               = "${var.name}-worker"
  assume_role_policy = data.aws_iam_policy_document.machines.json
}

resource "aws_iam_role" "head" {
  name               = "${var.name}-head"
  assume_role_policy = data.aws_iam_policy_document.ec2_only.json
}

resource "aws_iam_role" "vacuum" {
  name               = "${var.name}-vacuum"
  assume_role_policy = data.aws_iam_policy_document.machines.json
}

resource "aws_iam_role_policy" "worker" {
  name   = "catalogue"
  role   = aws_iam_role.worker.id
  policy = data.aws_iam_policy_document.worker.json
}

resource "aws_iam_role_policy" "head" {
  name   = "catalogue-and-machines"
  role   = aws_iam_role.head.id
  policy = data.aws_iam_policy_document.head.json
}

resource "aws_iam_role_policy" "vacuum" {
  name   = "catalogue-and-delete"
  role   = aws_iam_role.vacuum.id
  policy = data.aws_iam_policy_document.vacuum.json
}

resource "aws_iam_instance_profile" "worker" {
  name = aws_iam_role.worker.name
  role = aws_iam_role.worker.name
}

resource "aws_iam_instance_profile" "head" {
  name = aws_iam_role.head.name
  role = aws_iam_role.head.name
}
