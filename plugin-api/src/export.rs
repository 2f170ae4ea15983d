//! The export macros and what they expand to.

/// Exports a type that implements [`Module`](crate::Module) as this plugin's module. Stands once, in the
/// root of a `cdylib` crate; exports nothing under `cfg(test)`.
///
/// - `export_module!(Type)` wants `Type: Default`;
/// - `export_module!(Type, constructor = path)` takes a function `fn() -> Type`;
/// - `capabilities = ["…", …]` says what the module wants to be allowed to do;
/// - `allocator = none` leaves the global allocator to the plugin.
///
/// Options stand in this order.
///
/// ```standalone_crate
/// #![forbid(unsafe_code)]
/// # fn main() {}
/// use oxide_plugin_api::prelude::*;
///
/// struct Resolver {
///     timeout: std::time::Duration,
/// }
///
/// impl Resolver {
///     fn new() -> Self {
///         Self { timeout: std::time::Duration::from_secs(2) }
///     }
/// }
///
/// impl Module for Resolver {
///     // …
/// #   fn metadata(&self) -> ModuleMetadata {
/// #       let _ = self.timeout;
/// #       ModuleMetadata {
/// #           id: "resolver".into(),
/// #           name: "Resolver".into(),
/// #           version: "1.0.0".into(),
/// #           kind: ModuleKind::Native,
/// #           description: None,
/// #       }
/// #   }
/// #   async fn start(&mut self) -> Result<()> {
/// #       Ok(())
/// #   }
/// #   async fn stop(&mut self) -> Result<()> {
/// #       Ok(())
/// #   }
/// }
///
/// export_module!(Resolver, constructor = Resolver::new, capabilities = ["bus", "net"], allocator = none);
/// ```
#[macro_export]
macro_rules! export_module {
    ($($options:tt)*) => { $crate::__export! { Native, "native", $($options)* } };
}

/// Exports a type that implements [`WasmModule`](crate::WasmModule); otherwise as [`export_module!`].
#[macro_export]
macro_rules! export_wasm_module {
    ($($options:tt)*) => { $crate::__export! { Wasm, "wasm", $($options)* } };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($adapter:ident, $kind:literal, $module:ty $(, capabilities = [$($capability:literal),* $(,)?])? $(, allocator = $allocator:ident)? $(,)?) => {
        $crate::__export! {
            @constructor ($adapter, $kind, $module, <$module as ::core::default::Default>::default)
            ($($($capability),*)?) ($($allocator)?)
        }
    };
    ($adapter:ident, $kind:literal, $module:ty, constructor = $constructor:path $(, capabilities = [$($capability:literal),* $(,)?])? $(, allocator = $allocator:ident)? $(,)?) => {
        $crate::__export! {
            @constructor ($adapter, $kind, $module, $constructor)
            ($($($capability),*)?) ($($allocator)?)
        }
    };
    (@constructor $target:tt $capabilities:tt ()) => {
        $crate::__export! { @emit $target $capabilities "oxide" }
    };
    (@constructor $target:tt $capabilities:tt (none)) => {
        $crate::__export! { @emit $target $capabilities "none" }
    };
    (@constructor $target:tt $capabilities:tt ($other:ident)) => {
        ::core::compile_error!("the only choice here is `allocator = none`");
    };
    (@emit ($adapter:ident, $kind:literal, $module:ty, $constructor:expr) ($($capability:literal),*) $allocator:tt) => {
        // A unit test has no use for it, but what only the export uses is not dead code.
        #[cfg(test)]
        const _: fn() -> $module = $constructor;

        // Not inside the constant below, where `global_asm!` is refused.
        #[cfg(all(
            not(test),
            target_os = "linux",
            target_env = "gnu",
            any(target_arch = "x86_64", target_arch = "aarch64")
        ))]
        $crate::__shim! {}

        #[cfg(not(test))]
        $crate::__heap! { $allocator }

        #[cfg(not(test))]
        const _: () = {
            use $crate::__private as private;

            struct Constructor;

            impl private::Construct<$module> for Constructor {
                fn construct() -> $module {
                    $constructor()
                }
            }

            type Root = private::Root<private::$adapter<$module, Constructor>>;

            #[doc(hidden)]
            #[unsafe(no_mangle)]
            #[allow(non_upper_case_globals)]
            pub static _1as_0lib_1header_0root_bmodule_bloader: private::LibHeader =
                private::header(private::entry::<private::$adapter<$module, Constructor>>);

            const _: private::PluginRootRef = Root::TABLE_REF;

            const PAIRS: &[(&str, &str)] = &[
                (private::keys::API, private::API_VERSION),
                (private::keys::SOURCE, private::SOURCE),
                (private::keys::RUSTC, private::RUSTC),
                (private::keys::TARGET, private::TARGET),
                (private::keys::PANIC, if ::core::cfg!(panic = "abort") { "abort" } else { "unwind" }),
                (private::keys::PACKAGE, ::core::env!("CARGO_PKG_NAME")),
                (private::keys::PACKAGE_VERSION, ::core::env!("CARGO_PKG_VERSION")),
                (private::keys::DESCRIPTION, ::core::env!("CARGO_PKG_DESCRIPTION")),
                (private::keys::KIND, $kind),
                (private::keys::CAPABILITIES, private::join!($($capability),*)),
                (private::keys::ALLOCATOR, $allocator),
            ];

            #[used]
            #[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__oxide"))]
            #[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".oxide"))]
            static DESCRIPTION: private::Description<{ private::body_len(PAIRS) }> =
                private::Description::new(PAIRS);
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __heap {
    ("oxide") => {
        const _: () = {
            #[global_allocator]
            static HEAP: $crate::__private::Heap = $crate::__private::Heap::new();
        };
    };
    ("none") => {};
}

#[doc(hidden)]
#[macro_export]
macro_rules! __join {
    () => { "" };
    ($first:literal $(, $rest:literal)*) => { ::core::concat!($first $(, ",", $rest)*) };
}
