//! Images of chosen Debian packages, with all that these depend on; also on top of an image that is there.
//!
//! The signed index decides at each build which versions there are; what it decided are the inputs of
//! the recipe, so that nothing new is nothing to do. Packages are unpacked and nothing of them is
//! run: users and links that their scripts would make are not there. What an image is for is not
//! known here.

use mvm_proto::workload::Workload;

use crate::assemble::{Arrival, Assembly, Contents, Order, report, workload_input};
use crate::default_tree;
use crate::fetch::Fetcher;
use crate::guest_kernel::KernelFiles;
use crate::image::{BuildError, unpack};
use crate::progress::{OnProgress, Step};
use crate::recipe::{Input, InputKind};
use crate::root;
use crate::store::Image;
use crate::tree::TreeLimits;

const NAME: &str = "deb";
/// Bounds of an image's root.
const LIMITS: TreeLimits = TreeLimits { entries: 500_000, bytes: 16 << 30 };

/// What a root begins with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Beginning {
    /// Nothing: the packages are all that is in it.
    #[default]
    Nothing,
    /// The root of the image whose kernel it gets.
    Base,
}

/// What an image of packages is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackageImage {
    /// What is there before them.
    pub beginning: Beginning,
    /// The packages that were asked for, by name; without any, no index is asked.
    pub packages: Vec<String>,
    /// What the image runs; none for nothing.
    pub workload: Option<Workload>,
}

impl PackageImage {
    /// Makes the image, with the kernel of `base`, unless the same was made before.
    ///
    /// # Errors
    /// When apt doesn't have the packages, one can't be unpacked, the root of `base` can't be read, or the disk
    /// refuses.
    pub fn build(
        &self,
        assembly: &Assembly<'_>,
        base: &Image,
        fetcher: &Fetcher,
        on: OnProgress<'_>,
    ) -> Result<Image, BuildError> {
        let packages = match self.packages.as_slice() {
            [] => Vec::new(),
            names => fetcher.newest(assembly.arch(), names, on)?,
        };
        let (kernel, mut inputs) = KernelFiles::of_image(base);
        match self.beginning {
            Beginning::Nothing => {}
            Beginning::Base => inputs.push(Input {
                kind: InputKind::Root,
                name: base.manifest.name.clone(),
                version: None,
                sha256: base.manifest.root.sha256,
            }),
        }
        let chosen = packages.iter().map(|(package, _)| package);
        inputs.extend(chosen.map(|package| Input::package(InputKind::Package, package)));
        inputs.extend(self.workload.as_ref().map(workload_input).transpose()?);
        let parts: Vec<String> = inputs.iter().map(|input| input.sha256.to_string()).collect();
        let parts: Vec<&str> = [NAME].into_iter().chain(parts.iter().map(String::as_str)).collect();
        let request = assembly.request(&parts);
        if let Some(image) = assembly.answered(request) {
            return Ok(image);
        }
        let order = Order { name: NAME, request, inputs, limits: LIMITS, arrival: Arrival::Any };
        assembly.make(order, on, |tree| {
            match self.beginning {
                Beginning::Nothing => {}
                Beginning::Base => root::take_over(base, tree)?,
            }
            for (package, path) in &packages {
                report(on, Step::Unpack, &package.name);
                unpack(&package.name, path, tree)?;
            }
            default_tree::lay_out(tree)?;
            Ok(Contents { kernel, workload: self.workload.clone(), notes: Vec::new() })
        })
    }
}
