output "destination" {
  description = "Destination of `splitfire run`."
  value       = "s3://${aws_s3_bucket.stems.bucket}/${var.stems_prefix}"
}

output "weights_mirror" {
  description = "For `splitfire models pull NAME --to`, and SPLITFIRE_RUNTIME__WEIGHTS_MIRROR."
  value       = "s3://${aws_s3_bucket.stems.bucket}/${var.weights_prefix}"
}

output "instance_profiles" {
  description = "IamInstanceProfile of head and workers in cluster/ray-cluster.aws.yaml."
  value       = { head = aws_iam_instance_profile.head.name, worker = aws_iam_instance_profile.worker.name }
}

output "security_group" {
  description = "SecurityGroupIds there."
  value       = aws_security_group.cluster.id
}

output "roles" {
  description = "What a Kubernetes service account is annotated with; and whom `splitfire vacuum` runs as."
  value       = { worker = aws_iam_role.worker.arn, vacuum = aws_iam_role.vacuum.arn }
}
