output "repository" {
  description = "Where images go: docker push REPOSITORY/drawoff:TAG."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"
}

output "job" {
  description = "Name of the job; null while there is no image."
  value       = one(google_cloud_run_v2_job.job[*].name)
}

output "execute" {
  description = "Command that runs the job now."
  value       = "gcloud run jobs execute ${var.name} --project=${var.project} --region=${var.region} --wait"
}

output "service" {
  description = "Address of the service; null when there is none."
  value       = one(google_cloud_run_v2_service.service[*].uri)
}

output "runner" {
  description = "The account that runs; grant it what else the sources need."
  value       = google_service_account.runner.email
}

output "starter" {
  description = "The account that starts job and service."
  value       = google_service_account.starter.email
}

output "secrets" {
  description = "The secrets, by id: drawoff secrets set stores their values."
  value       = { for id, secret in google_secret_manager_secret.secrets : id => secret.name }
}
