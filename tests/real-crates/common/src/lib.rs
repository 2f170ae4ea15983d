//! What all of these plugins say alike.
#![forbid(unsafe_code)]

pub use oxide_plugin_api;

/// An error unless the crate did what it should have.
///
/// # Errors
/// When `is_right` is false.
pub fn check(is_right: bool, what: &str) -> oxide_plugin_api::Result<()> {
    if is_right { Ok(()) } else { Err(oxide_plugin_api::Error::new(format!("{what} is wrong"))) }
}

/// The metadata of a plugin, from its package.
#[macro_export]
macro_rules! metadata {
    () => {
        $crate::oxide_plugin_api::ModuleMetadata {
            id: env!("CARGO_PKG_NAME").into(),
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: $crate::oxide_plugin_api::ModuleKind::Native,
            description: Some(env!("CARGO_PKG_DESCRIPTION").into()),
        }
    };
}

/// Exports a module that has nothing but a function `fn(u64) -> Result<()>` behind its method `use`; the
/// number is another one in every call. Further arguments go to `export_module!`.
#[macro_export]
macro_rules! stateless {
    ($function:path $(, $option:ident = $value:tt)*) => {
        #[derive(Default)]
        struct Stateless;

        impl $crate::oxide_plugin_api::Module for Stateless {
            fn metadata(&self) -> $crate::oxide_plugin_api::ModuleMetadata {
                $crate::metadata!()
            }

            async fn start(&mut self) -> $crate::oxide_plugin_api::Result<()> {
                // Also on the thread of the host's that runs the hooks.
                $function(u64::MAX)
            }

            async fn invoke(
                &self,
                method: &str,
                payload: $crate::oxide_plugin_api::Payload,
            ) -> $crate::oxide_plugin_api::Result<$crate::oxide_plugin_api::Payload> {
                if method != "use" {
                    return Err($crate::oxide_plugin_api::Error::unknown_method(method));
                }
                $function(payload.to_json()?)?;
                Ok("ok".into())
            }

            async fn stop(&mut self) -> $crate::oxide_plugin_api::Result<()> {
                Ok(())
            }
        }

        $crate::oxide_plugin_api::export_module!(Stateless $(, $option = $value)*);
    };
}
