//! What can be known of a build before a module is swapped to it. No module is touched.

use std::{path::PathBuf, sync::Arc};

use oxide_plugin_api::ModuleMetadata;
use serde_json::Value;

use super::{
    guest::Found,
    load::{Failure, Loading, Plan, make, reading, undo},
    registry::{Entry, Shared},
    setup::Setup,
    swap::{Asker, Job, failed},
};
use crate::{
    error::Result,
    life::{generation::unique_number, undertaker},
    report::{Retention, SwapStep},
};

/// What a build says about itself.
#[derive(Clone, Debug)]
pub(crate) struct Probed {
    pub(crate) metadata: ModuleMetadata,
    /// Whether it was configured to say it, as guests are.
    pub(crate) configured: bool,
    /// Why its library would stay mapped after an unload, when its file says so.
    pub(crate) retained_by: Vec<Retention>,
}

/// The build that would be replaced.
#[derive(Clone, Debug)]
pub(crate) struct Looked {
    pub(crate) generation: u64,
    pub(crate) version: String,
    /// What it was configured with.
    pub(crate) config: Value,
}

/// Looks whether a file could be swapped to, as far as that is known without running any of it. Gives the build that
/// would be replaced.
pub(crate) async fn look(
    shared: &Arc<Shared>,
    loading: &Loading,
    entry: &Arc<Entry>,
    path: PathBuf,
    force: bool,
) -> Result<Looked> {
    let old = entry.present();
    let asker = Asker { runtime: None, gone: Arc::default() };
    let job = Job { shared, loading, entry, old: &old, asker: &asker };
    job.may_begin()?;
    let build = old.build.lock().clone();
    let config = build.as_ref().map(|build| build.config.clone()).unwrap_or_default();
    let differs = job.differs(build.map(|build| build.material).filter(|_| !force));
    let (with, read) = (loading.clone(), path.clone());
    let look = move || {
        let found = Found::read(&with, &read).map_err(Failure::at(SwapStep::Inspect));
        Ok(found.and_then(|found| differs(&found)))
    };
    reading(&path, look).await?.map_err(|failure| failed(entry, &old, failure))?;
    Ok(Looked { generation: old.generation.number, version: old.metadata.version.clone(), config })
}

/// Goes through every step of a load up to `metadata`, and undoes them. `config` is for a guest, which is configured
/// before that.
pub(crate) async fn probe(
    shared: &Arc<Shared>,
    loading: &Loading,
    path: PathBuf,
    config: &Value,
) -> Result<Probed, Failure> {
    let (with, read) = (loading.clone(), path.clone());
    let work = move || {
        let found = Found::read(&with, &read).map_err(Failure::at(SwapStep::Inspect))?;
        found.stage(&with).map_err(Failure::at(SwapStep::Stage))
    };
    let material = reading(&path, move || Ok(work())).await.map_err(Failure::at(SwapStep::Inspect))??;
    let id: Arc<str> = material.name().into();
    let plan = Plan { id: id.clone(), module: unique_number(), number: 1, path };
    let generation = make(shared, &plan, &material).await?;
    let setup = Setup { shared, generation: &generation, material: &material, config };
    let metadata = setup.metadata().await;
    undo(shared, &id, generation).await;
    Ok(Probed {
        metadata: metadata?,
        configured: material.guest.is_some(),
        retained_by: undertaker::static_holders(material.library.facts()),
    })
}
