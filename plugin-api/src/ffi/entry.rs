//! The one exported symbol: abi_stable's library header, made without its attribute macro, which would
//! want every author to depend on abi_stable.

use abi_stable::{
    library::{CheckTypeLayout, LibHeader, RootModuleResult},
    prefix_type::PrefixRefTrait,
};

use super::{
    adapter::Adapter,
    root::{PluginRootRef, Root},
};

/// The header of a plugin whose root table `entry` gives.
pub const fn header(entry: extern "C" fn() -> RootModuleResult) -> LibHeader {
    // SAFETY: the macro passes an instance of `entry` below, which gives a `PluginRootRef`.
    unsafe { LibHeader::from_constructor::<PluginRootRef>(entry, CheckTypeLayout::Yes) }
}

/// Gives the root table of the module behind `A`; runs nothing of the author's.
pub extern "C" fn entry<A: Adapter>() -> RootModuleResult {
    // SAFETY: erased here and restored by abi_stable as the type that `header` names.
    RootModuleResult::ROk(unsafe { Root::<A>::TABLE_REF.to_prefix_ref().cast() })
}
