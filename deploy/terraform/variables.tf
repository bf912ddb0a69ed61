variable "project" {
  description = "Id of the Google Cloud project that everything is made in."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "A project's id has 6 to 30 lower case letters, digits and hyphens, and begins with a letter."
  }
}

variable "region" {
  description = "Region of Cloud Run, Cloud Scheduler and Artifact Registry, such as europe-west1."
  type        = string

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "Write a region like europe-west1."
  }
}

variable "name" {
  description = "Name of the job, and the beginning of every other name. One for each use of this module in a project."
  type        = string
  default     = "drawoff"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{3,22}[a-z0-9]$", var.name))
    error_message = "Use 5 to 24 lower case letters, digits and hyphens, beginning with a letter: service accounts are named after it."
  }
}

variable "image" {
  description = "The image, with drawoff.yaml in it (docs/deploy.md says how); null until there is one: then everything but job and service is made."
  type        = string
  default     = null
}

variable "source_name" {
  description = "The source that the job runs; null: every source in drawoff.yaml."
  type        = string
  default     = null
}

variable "environment" {
  description = "Environment variables of job and service, such as DRAWOFF_LOG. Never a secret: those are read from Secret Manager."
  type        = map(string)
  default     = {}

  validation {
    condition     = length(setintersection(keys(var.environment), ["PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION", "CLOUD_RUN_JOB"])) == 0
    error_message = "Cloud Run itself sets PORT, K_SERVICE, K_REVISION, K_CONFIGURATION and CLOUD_RUN_JOB."
  }
}

variable "dataset" {
  description = "Id of the dataset that rows land in."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_]+$", var.dataset)) && length(var.dataset) <= 1024
    error_message = "A dataset's id has letters, digits and underscores."
  }
}

variable "create_dataset" {
  description = "Whether to make the dataset; false when it is there already."
  type        = bool
  default     = true
}

variable "location" {
  description = "Location of the dataset, such as EU."
  type        = string
  default     = "US"
}

variable "secrets" {
  description = "Ids of the secrets that the sources read, and whether runs store new values, as they do of refresh tokens that are good once. Only empty secrets are made: drawoff secrets set stores the values."
  type        = map(object({ runs_store = optional(bool, false) }))
  default     = {}

  validation {
    condition     = alltrue([for id in keys(var.secrets) : can(regex("^[A-Za-z0-9_-]{1,255}$", id))])
    error_message = "A secret's id has letters, digits, hyphens and underscores."
  }
}

variable "schedule" {
  description = "When the job runs, as cron has it; null: only when somebody starts it."
  type        = string
  default     = "0 3 * * *"

  validation {
    condition     = var.schedule == null || can(regex("^\\S+( \\S+){4}$", var.schedule))
    error_message = "Write five fields: minute, hour, day, month, weekday."
  }
}

variable "time_zone" {
  description = "Time zone of the schedules."
  type        = string
  default     = "Etc/UTC"
}

variable "tasks" {
  description = "Tasks that share each run."
  type        = number
  default     = 1

  validation {
    condition     = var.tasks >= 1 && var.tasks <= 10000 && floor(var.tasks) == var.tasks
    error_message = "Write a whole number from 1 to 10000."
  }
}

variable "max_retries" {
  description = "How often a task that failed is started again."
  type        = number
  default     = 3

  validation {
    condition     = var.max_retries >= 0 && var.max_retries <= 10 && floor(var.max_retries) == var.max_retries
    error_message = "Write a whole number from 0 to 10."
  }
}

variable "task_timeout_seconds" {
  description = "Time that each attempt of a task has, in seconds."
  type        = number
  default     = 21600

  validation {
    condition     = var.task_timeout_seconds >= 60 && var.task_timeout_seconds <= 604800
    error_message = "Write 60 to 604800 seconds (seven days)."
  }
}

variable "memory" {
  description = "Memory of a task, and of an instance of the service. Files that are written count."
  type        = string
  default     = "512Mi"
}

variable "service" {
  description = "Whether to run drawoff as a service too, that runs sources when it is asked to."
  type        = bool
  default     = false
}

variable "service_schedule" {
  description = "When the service is asked to run source_name, as cron has it; null: never. A run has to be over within 25 minutes: then the service answers, and Cloud Run may stop an instance that nobody asks anything any more. What takes longer belongs into the job (schedule)."
  type        = string
  default     = null

  validation {
    condition     = var.service_schedule == null || can(regex("^\\S+( \\S+){4}$", var.service_schedule))
    error_message = "Write five fields: minute, hour, day, month, weekday."
  }
}

variable "service_callers" {
  description = "Who else may call the service, such as serviceAccount:NAME@PROJECT.iam.gserviceaccount.com."
  type        = set(string)
  default     = []

  validation {
    condition     = length(setintersection(var.service_callers, ["allUsers", "allAuthenticatedUsers"])) == 0
    error_message = "Everybody is nobody in particular: name accounts or groups."
  }
}

variable "alert_emails" {
  description = "Who is written to when something is wrong. Without anybody, incidents only show in Cloud Monitoring."
  type        = set(string)
  default     = []
}

variable "fresh_within_hours" {
  description = "An alert fires when a stream of fresh_streams was not loaded to its end for so many hours: a query watches that every hour; null: there is none. Set it once the first run has made the table _drawoff_runs."
  type        = number
  default     = null

  validation {
    condition     = var.fresh_within_hours == null || try(var.fresh_within_hours >= 1 && var.fresh_within_hours <= 720 && floor(var.fresh_within_hours) == var.fresh_within_hours, false)
    error_message = "Write a whole number of hours, 1 to 720 (thirty days)."
  }
}

variable "fresh_streams" {
  description = "What must be fresh: streams by source, such as { acme = [\"tickets\"] }."
  type        = map(set(string))
  default     = {}

  validation {
    condition     = alltrue([for name in flatten([keys(var.fresh_streams), [for streams in values(var.fresh_streams) : tolist(streams)]]) : can(regex("^[A-Za-z0-9_.-]+$", name))])
    error_message = "Names of sources and streams have letters, digits, underscores, dots and hyphens."
  }
}

variable "deletion_protection" {
  description = "Whether Terraform refuses to delete the job and the service."
  type        = bool
  default     = false
}
