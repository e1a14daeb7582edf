# The bucket for stems. Unreleased music is in it: encrypted, in no way public, and not deleted by Terraform.

resource "aws_s3_bucket" "stems" {
  bucket = var.stems_bucket
  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_public_access_block" "stems" {
  bucket                  = aws_s3_bucket.stems.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "stems" {
  bucket = aws_s3_bucket.stems.id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "stems" {
  bucket = aws_s3_bucket.stems.id
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256" # aws:kms costs a request per stem and needs rights on the key
    }
  }
}

resource "aws_s3_bucket_versioning" "stems" {
  bucket = aws_s3_bucket.stems.id
  versioning_configuration {
    status = "Enabled" # a mistaken vacuum can be undone for a week
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "stems" {
  bucket = aws_s3_bucket.stems.id
  # An upload whose worker was killed is invisible and costs like an object.
  rule {
    id     = "abort-uploads"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }
  # A run renews its lease every 5 s, and each renewal leaves a version behind.
  rule {
    id     = "forget-old-versions"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = 7
    }
    expiration {
      expired_object_delete_marker = true
    }
  }
}

data "aws_iam_policy_document" "stems_bucket" {
  statement {
    sid       = "OnlyWithTLS"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.stems.arn, "${aws_s3_bucket.stems.arn}/*"]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "stems" {
  bucket = aws_s3_bucket.stems.id
  policy = data.aws_iam_policy_document.stems_bucket.json
}
