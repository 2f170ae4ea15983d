//! `GET /v1/openapi.json`. The description is a file kept by hand; tests hold it against the routes and
//! against the types that are really sent.

use axum::response::Response;
use hyper::StatusCode;
use serde_json::Value;

use super::answer::json;

const TEXT: &str = include_str!("openapi.json");

pub(super) async fn openapi() -> Response {
    json(StatusCode::OK, &description())
}

fn description() -> Value {
    let mut description: Value = serde_json::from_str(TEXT).unwrap_or_default();
    description["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    description
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use oxide_plugin_api::{ModuleKind, ModuleMetadata, ModuleState};
    use serde::Serialize;

    use super::*;
    use crate::{
        daemon::{DryRun, ErrorReport, Health, LoadReport, LoadRequest, SwapRequest, api::routes},
        report::{
            DropOutcome, Holder, ModuleInfo, Receipt, Retained, Retention, StopOutcome, SwapReport, SwapStep,
        },
    };

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let description = description();
        let described: BTreeSet<(String, String)> = description["paths"]
            .as_object()
            .expect("paths")
            .iter()
            .flat_map(|(path, calls)| {
                let calls = calls.as_object().expect("calls");
                calls.keys().map(move |method| (method.to_uppercase(), path.clone()))
            })
            .collect();
        let served: BTreeSet<(String, String)> =
            routes().into_iter().map(|(method, path, _)| (method.to_string(), path.to_owned())).collect();
        assert_eq!(described, served);
    }

    /// The fields of `value`, which has all of them filled in, are the properties of the schema.
    fn same_fields(schema: &str, value: &impl Serialize) {
        let description = description();
        let described = &description["components"]["schemas"][schema]["properties"];
        let described: BTreeSet<&String> = described.as_object().expect(schema).keys().collect();
        let value = serde_json::to_value(value).expect("JSON");
        let sent: BTreeSet<&String> = value.as_object().expect("an object").keys().collect();
        assert_eq!(described, sent, "{schema}");
    }

    #[test]
    fn the_described_fields_are_those_that_are_sent() {
        let mut error = ErrorReport::new("code", "message");
        error.detail = Some("detail".into());
        error.path = Some("path".into());
        error.step = Some(SwapStep::Init);
        error.cause = Some("code".into());
        let metadata = ModuleMetadata {
            id: "id".into(),
            name: "name".into(),
            version: "1".into(),
            kind: ModuleKind::Native,
            description: None,
        };
        let mut module = ModuleInfo::new(metadata, ModuleState::Failed, 1);
        module.failure = Some("failure".into());
        module.probation_millis = Some(1);
        module.engine = Some("engine".into());
        let retention = Retention { holder: Holder::Call, count: 1, detail: "detail".into() };
        module.retained_by = vec![retention.clone()];
        let receipt = Receipt {
            id: "id".into(),
            generation: 1,
            unmapped: false,
            retained_by: vec![retention.clone()],
            drained: 0,
            cancelled: 0,
            stop: StopOutcome::Ok,
            drop: DropOutcome::Ok,
            leaked_bytes: Some(0),
            forgotten_locals: 0,
            revoked: 0,
        };
        let retained = Retained {
            id: "id".into(),
            generation: 1,
            path: "path".into(),
            retained_by: vec![retention.clone()],
        };
        let load = LoadRequest {
            path: Some("path".into()),
            paths: Some(vec![]),
            id: Some("id".into()),
            config: 1.into(),
            start: Some(true),
        };
        let swap = SwapRequest {
            path: "path".into(),
            config: Some(1.into()),
            force: Some(true),
            probation_millis: Some(1),
            probation_errors: Some(1),
            dry_run: Some(true),
        };
        let swapped = SwapReport {
            id: "id".into(),
            from: 1,
            to: 2,
            from_version: "1".into(),
            to_version: "2".into(),
            downgrade: false,
            state_moved: true,
            held_calls: 1,
            hold_micros: 1,
            old: receipt.clone(),
        };
        let tried = DryRun {
            id: "id".into(),
            dry_run: true,
            generation: 1,
            from_version: "1".into(),
            to_version: "2".into(),
            downgrade: false,
            kind: ModuleKind::Native,
            passed: vec![SwapStep::Inspect],
            retained_by: vec![retention.clone()],
        };
        let report = LoadReport { error: error.clone(), errors: vec![], loaded: vec![module.clone()] };
        same_fields("Error", &error);
        same_fields("Module", &module);
        same_fields("Receipt", &receipt);
        same_fields("Retention", &retention);
        same_fields("Retained", &retained);
        same_fields("Health", &Health { version: "1".into(), pid: 1 });
        same_fields("LoadRequest", &load);
        same_fields("LoadReport", &report);
        same_fields("SwapRequest", &swap);
        same_fields("SwapReport", &swapped);
        same_fields("DryRun", &tried);
    }

    #[test]
    fn every_reference_of_the_description_leads_somewhere() {
        fn walk(value: &Value, visit: &mut impl FnMut(&str)) {
            match value {
                Value::Object(fields) => {
                    for (key, value) in fields {
                        match value {
                            Value::String(target) if key == "$ref" => visit(target),
                            _ => walk(value, visit),
                        }
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
                _ => {}
            }
        }
        let description = description();
        walk(&description, &mut |target| {
            let pointer = target.strip_prefix('#').expect("a local reference");
            assert!(description.pointer(pointer).is_some(), "{target}");
        });
    }
}
