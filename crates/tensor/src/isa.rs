//! Instruction sets as values: holding one proves that the processor has it.
#![allow(unsafe_code)]

/// An instruction set that this processor has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isa(Set);

/// The sets there are kernels for. Private constructors: [`Isa::best`] and [`Isa::available`] are the
/// only ways to one, and both ask the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Set {
    /// Plain Rust, the oracle.
    Scalar,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, VL, DQ and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// NEON with dot product and half precision conversion.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// Plain Rust: always there.
    pub const SCALAR: Isa = Isa(Set::Scalar);

    /// Every set this processor has, the plainest first.
    pub fn available() -> Vec<Isa> {
        #[allow(unused_mut)] // on other processors nothing is added
        let mut found = vec![Isa::SCALAR];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            if avx2 {
                found.push(Isa(Set::Avx2));
            }
            let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512vl");
            if avx2 && avx512 && has!("avx512dq") && has!("avx512vnni") {
                found.push(Isa(Set::Avx512));
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            use std::arch::is_aarch64_feature_detected as has;
            if has!("neon") && has!("dotprod") {
                found.push(Isa(Set::Neon));
            }
        }
        found
    }

    /// The fastest set of this processor, or the one named in `YUSHAN_ISA` (for tests and
    /// comparisons) when the processor has it. Asked once.
    pub fn best() -> Isa {
        static BEST: std::sync::OnceLock<Isa> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| {
            let found = Isa::available();
            let named = std::env::var("YUSHAN_ISA").unwrap_or_default();
            let chosen = found.iter().find(|isa| isa.name() == named).or(found.last());
            *chosen.unwrap_or(&Isa::SCALAR)
        })
    }

    /// `scalar`, `avx2`, `avx512` or `neon`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Set::Neon => "neon",
        }
    }

    /// Whether 8-bit kernels sum pairs of products in 16 bits.
    pub(crate) fn adds_pairs(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        if self.0 == Set::Avx2 {
            return true;
        }
        false
    }

    pub(crate) fn set(self) -> Set {
        self.0
    }
}

impl std::fmt::Debug for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Compiles one plain function for every instruction set: the body is written once, in portable
/// Rust with explicit `mul_add`, and the compiler vectorises it for each. Rust never reorders
/// floating point, so all versions give the same bits.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name(isa: crate::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
            fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
            match isa.set() {
                crate::isa::Set::Scalar => body($($arg),*),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: holding the `Isa` proves that the processor has the features.
                crate::isa::Set::Avx2 => unsafe { avx2($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                crate::isa::Set::Avx512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "aarch64")]
                // NEON is part of the baseline of aarch64: the plain version already uses it.
                crate::isa::Set::Neon => body($($arg),*),
            }
        }
    };
}
pub(crate) use multiversion;
