//! Who exports: the program, and where it runs.

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::EnvResourceDetector;

use crate::config::{self, Environment};

/// What all spans and metrics say, after OpenTelemetry's conventions; what `OTEL_SERVICE_NAME` and
/// `OTEL_RESOURCE_ATTRIBUTES` say comes first.
pub(super) fn of(environment: &Environment) -> Resource {
    let get = |name: &str| environment.get(name);
    let (job, service) = (get(config::CLOUD_RUN_JOB), get(config::K_SERVICE));
    let mut about = vec![
        KeyValue::new("service.name", env!("CARGO_PKG_NAME")),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new(
            "service.instance.id",
            format!("{:032x}", rand::random::<u128>()),
        ),
    ];
    let mut add = |name: &'static str, value: Option<String>| {
        about.extend(value.map(|value| KeyValue::new(name, value)));
    };
    if job.is_some() || service.is_some() {
        add("cloud.provider", Some("gcp".to_owned()));
        add("cloud.platform", Some("gcp_cloud_run".to_owned()));
        add("faas.version", get(config::K_REVISION));
    }
    add("faas.name", job.or(service));
    add(
        "gcp.cloud_run.job.execution",
        get(config::CLOUD_RUN_EXECUTION),
    );
    if let Some(index) = get(config::CLOUD_RUN_TASK_INDEX).and_then(|i| i.parse::<i64>().ok()) {
        about.push(KeyValue::new("gcp.cloud_run.job.task_index", index));
    }
    // Later ones win.
    let mut resource = Resource::builder_empty()
        .with_attributes(about)
        .with_detector(Box::new(EnvResourceDetector::new()));
    if let Some(name) = get(config::OTEL_SERVICE_NAME) {
        resource = resource.with_service_name(name);
    }
    resource.build()
}
