variable "name" {
  description = "Begins the names of roles, policies and the security group; also the cluster_name of `ray up`."
  type        = string
  default     = "splitfire"
}

variable "region" {
  description = "Where source, stems and machines are: audio that leaves a region costs more than the GPUs."
  type        = string
}

variable "source_bucket" {
  description = "The bucket with the catalogue. It exists; nothing here changes it."
  type        = string
}

variable "source_prefix" {
  description = "What of it may be read, without slashes at its ends."
  type        = string
  validation {
    condition     = length(var.source_prefix) > 0 && trim(var.source_prefix, "/") == var.source_prefix
    error_message = "A prefix such as masters, without slashes at its ends; to read a whole bucket, name its folders."
  }
}

variable "stems_bucket" {
  description = "The bucket that is made for stems, manifest and weights."
  type        = string
}

variable "stems_prefix" {
  description = "Where in it the stems go, without slashes at its ends."
  type        = string
  default     = "stems"
  validation {
    condition     = length(var.stems_prefix) > 0 && trim(var.stems_prefix, "/") == var.stems_prefix
    error_message = "A prefix such as stems, without slashes at its ends."
  }
}

variable "weights_prefix" {
  description = "Where in it `splitfire models pull NAME --to` puts weights; runs read it, operators fill it."
  type        = string
  default     = "weights"
}

variable "vpc_id" {
  description = "The network of the machines."
  type        = string
}

variable "operator_cidr" {
  description = "From where `ray up` comes in by SSH: a VPN's or a bastion's addresses."
  type        = string
  validation {
    condition     = tonumber(split("/", var.operator_cidr)[1]) >= 16
    error_message = "Not so many addresses; never 0.0.0.0/0."
  }
}

variable "eks_oidc_provider_arn" {
  description = "Of an EKS cluster whose service account may act as a worker; null without Kubernetes."
  type        = string
  default     = null
}

variable "kubernetes_service_account" {
  description = "That account, as namespace:name; see cluster/rayjob.yaml."
  type        = string
  default     = "default:splitfire"
}
