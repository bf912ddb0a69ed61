resource "google_cloud_run_v2_job" "job" {
  count = local.jobs

  project             = var.project
  location            = var.region
  name                = var.name
  deletion_protection = var.deletion_protection

  template {
    # Without parallelism all tasks run at once, also where one execution is given more of them.
    task_count = var.tasks

    template {
      service_account = google_service_account.runner.email
      max_retries     = var.max_retries
      timeout         = "${var.task_timeout_seconds}s"

      containers {
        image = var.image
        args  = var.source_name == null ? ["--all"] : ["--source=${var.source_name}"]

        dynamic "env" {
          for_each = local.environment

          content {
            name  = env.key
            value = env.value
          }
        }

        resources {
          limits = {
            cpu    = "1"
            memory = var.memory
          }
        }
      }
    }
  }

  depends_on = [
    google_bigquery_dataset_iam_member.runner_writes,
    google_project_iam_member.runner_queries,
    google_secret_manager_secret_iam_member.runner_reads,
  ]
}

resource "google_cloud_run_v2_service" "service" {
  count = local.services

  project             = var.project
  location            = var.region
  name                = var.name
  ingress             = "INGRESS_TRAFFIC_ALL"
  deletion_protection = var.deletion_protection

  template {
    service_account = google_service_account.runner.email
    # The longest that Cloud Run allows. A run answers or says where to look before that, after 25 minutes.
    timeout = "3600s"

    # Runs are kept apart by one instance's memory of them, and by leases in the dataset. Without a least
    # number Cloud Run may stop an instance that has had no request for fifteen minutes, and what runs in
    # it: runs that go on after their answer belong into the job, or are looked at by a workflow.
    scaling {
      min_instance_count = 0
      max_instance_count = 1
    }

    containers {
      image = var.image
      args  = ["serve"]

      dynamic "env" {
        for_each = local.environment

        content {
          name  = env.key
          value = env.value
        }
      }

      resources {
        limits = {
          cpu    = "1"
          memory = var.memory
        }
        # A run goes on after its caller has gone.
        cpu_idle = false
      }

      startup_probe {
        http_get {
          path = "/healthz"
        }
      }
    }
  }

  depends_on = [
    google_bigquery_dataset_iam_member.runner_writes,
    google_project_iam_member.runner_queries,
    google_secret_manager_secret_iam_member.runner_reads,
  ]
}

# The account that starts: the one job, and the one service, and nothing else.

resource "google_service_account" "starter" {
  project      = var.project
  account_id   = "${var.name}-start"
  display_name = "drawoff: starts ${var.name}"

  depends_on = [google_project_service.apis]
}

resource "google_cloud_run_v2_job_iam_member" "starter" {
  count = local.jobs

  project  = var.project
  location = var.region
  name     = google_cloud_run_v2_job.job[0].name
  role     = "roles/run.invoker"
  member   = "serviceAccount:${google_service_account.starter.email}"
}

resource "google_cloud_run_v2_service_iam_member" "callers" {
  for_each = local.services == 0 ? toset([]) : setunion(
    var.service_callers,
    var.service_schedule == null ? [] : ["starter"],
  )

  project  = var.project
  location = var.region
  name     = google_cloud_run_v2_service.service[0].name
  role     = "roles/run.invoker"
  member   = each.value == "starter" ? "serviceAccount:${google_service_account.starter.email}" : each.value
}

resource "google_cloud_scheduler_job" "job" {
  count = var.schedule == null ? 0 : local.jobs

  project     = var.project
  region      = var.region
  name        = var.name
  description = "Starts the job ${var.name}"
  schedule    = var.schedule
  time_zone   = var.time_zone

  retry_config {
    retry_count = 3
  }

  http_target {
    http_method = "POST"
    uri         = "https://run.googleapis.com/v2/projects/${var.project}/locations/${var.region}/jobs/${google_cloud_run_v2_job.job[0].name}:run"

    # A Google API takes an access token.
    oauth_token {
      service_account_email = google_service_account.starter.email
    }
  }

  depends_on = [google_cloud_run_v2_job_iam_member.starter]
}

resource "google_cloud_scheduler_job" "service" {
  count = var.service_schedule == null ? 0 : local.services

  project          = var.project
  region           = var.region
  name             = "${var.name}-service"
  description      = "Asks the service ${var.name} for a run"
  schedule         = var.service_schedule
  time_zone        = var.time_zone
  attempt_deadline = "1800s"

  retry_config {
    retry_count = 3
  }

  http_target {
    http_method = "POST"
    uri         = "${google_cloud_run_v2_service.service[0].uri}/run"
    body        = base64encode(jsonencode({ source = var.source_name }))
    headers     = { "Content-Type" = "application/json" }

    # A service takes an ID token, for its root whatever the path is.
    oidc_token {
      service_account_email = google_service_account.starter.email
      audience              = google_cloud_run_v2_service.service[0].uri
    }
  }

  lifecycle {
    precondition {
      condition     = var.source_name != null
      error_message = "service_schedule needs source_name: a request names the source that is to run."
    }
  }

  depends_on = [google_cloud_run_v2_service_iam_member.callers]
}
