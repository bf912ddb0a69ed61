locals {
  apis = concat(
    [
      "artifactregistry.googleapis.com",
      "bigquery.googleapis.com",
      "bigquerystorage.googleapis.com",
      "cloudbuild.googleapis.com",
      "cloudscheduler.googleapis.com",
      "iam.googleapis.com",
      "monitoring.googleapis.com",
      "run.googleapis.com",
      "secretmanager.googleapis.com",
    ],
    var.fresh_within_hours == null ? [] : ["bigquerydatatransfer.googleapis.com"],
  )

  # Until there is an image there is nothing to run.
  jobs     = var.image == null ? 0 : 1
  services = var.image != null && var.service ? 1 : 0

  environment = merge(
    {
      DRAWOFF_PROJECT     = var.project
      DRAWOFF_DESTINATION = "bigquery:${var.project}.${var.dataset}"
    },
    var.environment,
  )

  runner = "serviceAccount:${google_service_account.runner.email}"
}

resource "google_project_service" "apis" {
  for_each = toset(local.apis)

  project            = var.project
  service            = each.value
  disable_on_destroy = false
}

# The account that runs: it may run queries, write to the one dataset, and read the named secrets.

resource "google_service_account" "runner" {
  project      = var.project
  account_id   = "${var.name}-run"
  display_name = "drawoff: runs ${var.name}"

  depends_on = [google_project_service.apis]
}

resource "google_project_iam_member" "runner_queries" {
  project = var.project
  role    = "roles/bigquery.jobUser"
  member  = local.runner
}

resource "google_bigquery_dataset" "dataset" {
  count = var.create_dataset ? 1 : 0

  project     = var.project
  dataset_id  = var.dataset
  location    = var.location
  description = "What drawoff reads from APIs, and its own tables, _drawoff_…"

  depends_on = [google_project_service.apis]
}

resource "google_bigquery_dataset_iam_member" "runner_writes" {
  project    = var.project
  dataset_id = var.create_dataset ? google_bigquery_dataset.dataset[0].dataset_id : var.dataset
  role       = "roles/bigquery.dataEditor"
  member     = local.runner
}

# Secrets without values: a value in Terraform would be in its state.

resource "google_secret_manager_secret" "secrets" {
  for_each = var.secrets

  project   = var.project
  secret_id = each.key

  replication {
    auto {}
  }

  depends_on = [google_project_service.apis]
}

resource "google_secret_manager_secret_iam_member" "runner_reads" {
  for_each = var.secrets

  project   = var.project
  secret_id = google_secret_manager_secret.secrets[each.key].secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = local.runner
}

# Adds versions and disables them: of two tokens only the newest is good.
resource "google_secret_manager_secret_iam_member" "runner_stores" {
  for_each = { for id, secret in var.secrets : id => secret if secret.runs_store }

  project   = var.project
  secret_id = google_secret_manager_secret.secrets[each.key].secret_id
  role      = "roles/secretmanager.secretVersionManager"
  member    = local.runner
}

resource "google_artifact_registry_repository" "images" {
  project       = var.project
  location      = var.region
  repository_id = var.name
  format        = "DOCKER"
  description   = "drawoff, and what it is configured by"

  depends_on = [google_project_service.apis]
}
