locals {
  channels = [for channel in google_monitoring_notification_channel.emails : channel.id]
  watched  = var.fresh_within_hours == null ? 0 : 1
}

resource "google_monitoring_notification_channel" "emails" {
  for_each = var.alert_emails

  project      = var.project
  display_name = "drawoff: ${each.value}"
  type         = "email"
  labels       = { email_address = each.value }

  depends_on = [google_project_service.apis]
}

resource "google_monitoring_alert_policy" "job_failed" {
  count = local.jobs

  project               = var.project
  display_name          = "${var.name} failed"
  combiner              = "OR"
  notification_channels = local.channels

  conditions {
    display_name = "an execution failed"

    condition_threshold {
      filter = join(" AND ", [
        "resource.type = \"cloud_run_job\"",
        "resource.labels.job_name = \"${google_cloud_run_v2_job.job[0].name}\"",
        "metric.type = \"run.googleapis.com/job/completed_execution_count\"",
        "metric.labels.result = \"failed\"",
      ])
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"

      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_DELTA"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "An execution failed after all its retries. The log's last ERROR says why, and what to do; if it ended with 75, the last WARNING does."
  }
}

# A job that is never started does not fail; a service answers that a run has failed.
resource "google_monitoring_alert_policy" "not_started" {
  for_each = merge(
    { for schedule in google_cloud_scheduler_job.job : "job" => schedule.name },
    { for schedule in google_cloud_scheduler_job.service : "service" => schedule.name },
  )

  project               = var.project
  display_name          = "${each.value} was not started, or failed"
  combiner              = "OR"
  notification_channels = local.channels

  conditions {
    display_name = "Cloud Scheduler could not start it"

    condition_matched_log {
      filter = join(" AND ", [
        "resource.type = \"cloud_scheduler_job\"",
        "resource.labels.job_id = \"${each.value}\"",
        "severity >= ERROR",
      ])
    }
  }

  # What a condition on log entries needs.
  alert_strategy {
    auto_close = "86400s"

    notification_rate_limit {
      period = "3600s"
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "The entry says what came back. 403: the starting account lacks roles/run.invoker on what it starts. 500: a run of the service failed, and its log says why. 409, 429, 503: it is tried again."
  }
}

# Fresh or not is in the dataset: a query that fails when it is not.

locals {
  fresh = flatten([
    for source, streams in var.fresh_streams : [
      for stream in streams : "STRUCT('${source}' AS source, '${stream}' AS stream)"
    ]
  ])
}

resource "google_service_account" "watcher" {
  count = local.watched

  project      = var.project
  account_id   = "${var.name}-watch"
  display_name = "drawoff: watches whether ${var.dataset} is fresh"

  depends_on = [google_project_service.apis]
}

resource "google_project_iam_member" "watcher_queries" {
  count = local.watched

  project = var.project
  role    = "roles/bigquery.jobUser"
  member  = "serviceAccount:${google_service_account.watcher[0].email}"
}

resource "google_bigquery_dataset_iam_member" "watcher_reads" {
  count = local.watched

  project    = var.project
  dataset_id = var.create_dataset ? google_bigquery_dataset.dataset[0].dataset_id : var.dataset
  role       = "roles/bigquery.dataViewer"
  member     = "serviceAccount:${google_service_account.watcher[0].email}"
}

resource "google_bigquery_data_transfer_config" "freshness" {
  count = local.watched

  project              = var.project
  location             = var.location
  display_name         = "${var.name} is fresh"
  data_source_id       = "scheduled_query"
  schedule             = "every 1 hours"
  service_account_name = google_service_account.watcher[0].email

  params = {
    query = <<-SQL
      SELECT IF(COUNT(*) = 0, 'all fresh', ERROR(CONCAT('stale: ', STRING_AGG(what, ', ' ORDER BY what)))) AS freshness
      FROM (
        SELECT CONCAT(source, '.', stream, ' (', IFNULL(CAST(complete_until AS STRING), 'never'), ')') AS what
        FROM UNNEST([
          ${join(",\n    ", local.fresh)}
        ])
        LEFT JOIN (
          SELECT source, stream, MAX(started_at) AS complete_until
          FROM `${var.project}.${var.dataset}._drawoff_runs`
          WHERE outcome = 'done' AND started_at > TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 31 DAY)
          GROUP BY source, stream
        ) USING (source, stream)
        WHERE complete_until IS NULL OR complete_until < TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL ${coalesce(var.fresh_within_hours, 1)} HOUR)
      )
    SQL
  }

  lifecycle {
    precondition {
      condition     = length(local.fresh) > 0
      error_message = "fresh_within_hours needs fresh_streams: a stream that has never run is in no table."
    }
  }

  depends_on = [
    google_bigquery_dataset_iam_member.watcher_reads,
    google_project_iam_member.watcher_queries,
  ]
}

resource "google_monitoring_alert_policy" "not_fresh" {
  count = local.watched

  project               = var.project
  display_name          = "${var.name} is not fresh"
  combiner              = "OR"
  notification_channels = local.channels

  conditions {
    display_name = "the query that watches it failed"

    condition_matched_log {
      filter = join(" AND ", [
        "resource.type = \"bigquery_dts_config\"",
        # The last part of projects/…/locations/…/transferConfigs/ID.
        "resource.labels.config_id = \"${reverse(split("/", google_bigquery_data_transfer_config.freshness[0].name))[0]}\"",
        "severity >= ERROR",
      ])
    }
  }

  alert_strategy {
    auto_close = "86400s"

    notification_rate_limit {
      period = "3600s"
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "The entry names the streams that were not loaded to their end in time. `_drawoff_runs` says how their last runs ended."
  }
}
