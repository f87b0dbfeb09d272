//! Images that are made for no pool.
//!
//! They lie in the store until somebody uses them or the cache's budget is spent. It refuses to know what an
//! image is.

use mvm_core::{
    error::{Error, ErrorKind},
    id::ImageHash,
    operation::Rebuild,
    pool::{Role, Source},
    port::BuildOrder,
    units::Seconds,
};

use crate::engine::{Context, Engine};

impl Engine {
    /// Makes or finds an image by the builder port alone: it is nobody's, so unlike a pool's or a variant's
    /// (`make_image`) it never needs a builder microVM, and what does is refused.
    ///
    /// # Errors
    /// Those of the builder; what was in the store stays there.
    pub fn ensure_image(
        &self,
        cx: &Context,
        source: Source,
        rebuild: Rebuild,
        timeout: Seconds,
    ) -> Result<ImageHash, Error> {
        source.validate()?;
        let (profile, role) = ("minimal".to_owned(), Role::Worker);
        let order = BuildOrder { source, profile, role, rebuild, timeout };
        let made = self.ports.builder.ensure_image(&order, &cx.progress)?;
        if made.commands.is_some() {
            let message = "the commands of [[run]] run in the network of a tenant";
            return Err(Error::new(ErrorKind::Usage, message)
                .hint(format!("build a pool from it: mvm pool create --image {}", order.source)));
        }
        let image = made.image;
        tracing::info!(%image, source = %order.source, "an image was made for no pool");
        Ok(image)
    }
}
