//! The feature `tokio`: a runtime of the plugin's own around every hook, task and drop.
#![forbid(unsafe_code)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use oxide_plugin_api::{prelude::*, testing::TestHost};
use tokio::runtime::Handle;

const SHORT: Duration = Duration::from_millis(5);

/// Uses tokio wherever its code runs.
struct User {
    dropped_inside: Arc<AtomicBool>,
}

impl Drop for User {
    fn drop(&mut self) {
        self.dropped_inside.store(Handle::try_current().is_ok(), Ordering::Relaxed);
    }
}

impl Module for User {
    fn metadata(&self) -> ModuleMetadata {
        Handle::current();
        ModuleMetadata {
            id: "user".into(),
            name: "User".into(),
            version: "1.0.0".into(),
            kind: ModuleKind::Native,
            description: None,
        }
    }

    async fn configure(&mut self, _: serde_json::Value) -> Result<()> {
        tokio::time::sleep(SHORT).await;
        Ok(())
    }

    async fn init(&mut self, _: MessageBus) -> Result<()> {
        tokio::spawn(tokio::time::sleep(SHORT)).await?;
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        let task = task::spawn(async { tokio::time::timeout(SHORT, std::future::pending::<()>()).await });
        match task.await {
            Some(Err(_)) => Ok(()),
            other => Err(Error::new(format_args!("the task gave {other:?}"))),
        }
    }

    async fn invoke(&self, _: &str, payload: Payload) -> Result<Payload> {
        tokio::time::sleep(SHORT).await;
        task::sleep(SHORT).await;
        Ok(payload)
    }

    async fn stop(&mut self) -> Result<()> {
        tokio::time::sleep(SHORT).await;
        Ok(())
    }
}

#[test]
fn tokio_works_in_every_hook() -> Result<()> {
    let dropped_inside = Arc::new(AtomicBool::new(false));
    let mut user = TestHost::new().load_and_start(User { dropped_inside: dropped_inside.clone() })?;
    assert_eq!(user.invoke("any", b"thing")?.as_bytes(), b"thing");
    user.stop()?;
    drop(user);
    assert!(dropped_inside.load(Ordering::Relaxed));
    Ok(())
}

#[tokio::test]
async fn the_async_methods_work_in_a_runtime_of_the_tests() -> Result<()> {
    let mut user = TestHost::new().load(User { dropped_inside: Arc::default() });
    user.start_async().await?;
    assert_eq!(user.invoke_async("any", b"thing").await?.as_bytes(), b"thing");
    user.stop_async().await?;
    drop(user.unload_async().await?);
    Ok(())
}
