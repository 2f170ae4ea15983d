//! A build is tried out in a process of its own, so that whatever it does there, a crash included, is an answer.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use hyper::StatusCode;
use oxide_plugin_api::ModuleMetadata;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};

use super::{
    DryRun, ErrorReport,
    answer::{Answer, Fault},
};
use crate::{
    error::KernelError,
    host::Host,
    intake::RefusalReason,
    report::{Retention, SwapStep},
};

/// The steps of a swap that a dry run goes through. `configure` is for WASM guests, whose engine knows them only then.
const STEPS: [SwapStep; 6] = [
    SwapStep::Inspect,
    SwapStep::Stage,
    SwapStep::Open,
    SwapStep::Constructor,
    SwapStep::Configure,
    SwapStep::Metadata,
];

/// How much of what the process says on stderr is kept, for when it crashes.
const LAST_WORDS: usize = 4096;

/// What the process is told, on its stdin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProbeOrder {
    /// The build's file.
    pub path: PathBuf,
    /// Where its reply goes: stdout is the plugin's.
    pub reply: PathBuf,
    /// Below this folder the private copies lie, where it was chosen.
    pub staging: Option<PathBuf>,
    /// Whether it may need libraries that are not part of the system.
    pub allow_foreign_libraries: bool,
    /// What a guest is configured with.
    pub config: Value,
    /// The engine for guests, where it is not to be looked for.
    pub wasm_engine: Option<PathBuf>,
    /// Where engines keep what they have compiled.
    pub wasm_cache: Option<PathBuf>,
    /// How long the constructor and `metadata` may each take.
    pub init_timeout: Duration,
    /// How long opening and closing may each take.
    pub loader_timeout: Duration,
}

/// What the process found.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeReply {
    /// Every step went well.
    Passed {
        /// What the build says about itself.
        metadata: ModuleMetadata,
        /// Whether it was configured to say it.
        configured: bool,
        /// Why its library would stay mapped after an unload.
        retained_by: Vec<Retention>,
    },
    /// A step went wrong.
    Failed {
        /// Which.
        step: SwapStep,
        /// How.
        error: Box<ErrorReport>,
    },
}

/// Tries a build out against a module.
pub(super) async fn dry_run(
    host: &Host,
    id: &str,
    path: &Path,
    force: bool,
    config: Option<Value>,
) -> Answer<DryRun> {
    let old = host.look(id, path, force).await?;
    match probe(host, path, config.unwrap_or(old.config)).await? {
        ProbeReply::Passed { metadata, configured, retained_by } => Ok(DryRun {
            id: id.to_owned(),
            dry_run: true,
            generation: old.generation,
            from_version: old.version,
            downgrade: host.fits(id, &metadata)?,
            to_version: metadata.version,
            kind: metadata.kind,
            passed: STEPS.into_iter().filter(|step| configured || *step != SwapStep::Configure).collect(),
            retained_by,
        }),
        ProbeReply::Failed { step, error } => Err(would_fail(id, step, *error)),
    }
}

fn would_fail(id: &str, step: SwapStep, cause: ErrorReport) -> Fault {
    let message = format!("a swap of module `{id}` to this build would fail at {step}");
    let chain: Vec<String> = std::iter::once(message).chain(cause.chain).collect();
    let mut report = ErrorReport::new("swap_failed", chain.join(": "));
    report.chain = chain;
    report.hint = cause.hint;
    report.detail = cause.detail;
    report.step = Some(step);
    // As in a swap: a refusal, whose code is its reason, at whichever step.
    let refused = serde_json::from_value::<RefusalReason>(cause.code.as_str().into()).is_ok();
    let status = if refused { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::INTERNAL_SERVER_ERROR };
    report.cause = Some(cause.code);
    Fault { status, report: Box::new(report) }
}

/// Has a process of its own try the file.
async fn probe(host: &Host, path: &Path, config: Value) -> Answer<ProbeReply> {
    let folder = tempfile::tempdir().map_err(|error| setup("make a folder for the reply", &error))?;
    let order = ProbeOrder {
        path: path.to_owned(),
        reply: folder.path().join("reply"),
        staging: host.chosen_staging().map(Path::to_owned),
        allow_foreign_libraries: host.policy().allow_foreign_libraries,
        config,
        wasm_engine: host.wasm().engine.clone(),
        wasm_cache: host.wasm().cache.clone(),
        init_timeout: host.limits().init,
        loader_timeout: host.limits().loader,
    };
    let order_text =
        serde_json::to_vec(&order).map_err(|error| Fault::bad_request(format!("the path: {error}")))?;
    let mut child = Command::new(this_program())
        .args(["-q", "probe"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // When whoever asked goes away.
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| setup("start a process to try the build in", &error))?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let whole = async {
        if let Some(mut stdin) = stdin {
            // It may have ended already; its reply, or that there is none, tells.
            let _ = stdin.write_all(&order_text).await;
        }
        let mut said = Vec::new();
        if let Some(mut stderr) = stderr {
            let _ = stderr.read_to_end(&mut said).await;
        }
        (child.wait().await, said)
    };
    // Its own deadlines come first; this one is for a process that does not even keep those.
    let limit = order.loader_timeout * 2 + order.init_timeout * 3 + Duration::from_secs(30);
    let ended = tokio::time::timeout(limit, whole).await;
    let Ok((status, said)) = ended else {
        // Dropped with the future, or here: killed, and reaped by the runtime.
        let message = format!("the process in which the build was tried did not end within {limit:?}");
        return Err(Fault::new(StatusCode::GATEWAY_TIMEOUT, "dry_run_timed_out", message));
    };
    let status = status.map_err(|error| setup("wait for the process that tries the build", &error))?;
    match std::fs::read(&order.reply).ok().map(|reply| serde_json::from_slice(&reply)) {
        Some(Ok(reply)) if status.success() => Ok(reply),
        _ => Err(crashed(status, &said)),
    }
}

/// The program that runs, also when its file has been replaced meanwhile.
fn this_program() -> PathBuf {
    let running = Path::new("/proc/self/exe");
    if running.exists() {
        return running.to_owned();
    }
    std::env::current_exe().unwrap_or_else(|_| "oxide-host".into())
}

fn crashed(status: ExitStatus, said: &[u8]) -> Fault {
    let message = format!("the build ended the process in which it was tried: {status}");
    let mut fault = Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "dry_run_crashed", message)
        .hint("a swap to it would have ended this host; -v shows what it said last");
    let last = String::from_utf8_lossy(&said[said.len().saturating_sub(LAST_WORDS)..]).into_owned();
    fault.report.detail = Some(last).filter(|last| !last.trim().is_empty());
    fault
}

fn setup(action: &str, error: &std::io::Error) -> Fault {
    KernelError::Setup(format!("cannot {action}: {error}")).into()
}
