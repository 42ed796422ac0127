//! Functions compiled for several register widths; which one runs is decided on the machine.
//!
//! Cargo compiles for the oldest x86-64, whose registers hold four floats. A loop over floats inside [`wide`]
//! is compiled for sixteen and for eight as well. Nothing is contracted (no fused multiply-add), so all widths
//! give the same bits.

/// Defines a function whose body is compiled for AVX-512, for AVX2 and for any machine.
///
/// Arguments are plain names; the body may call only what is inlined into it.
macro_rules! wide {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $output:ty)? $body:block
    ) => {
        $(#[$attribute])*
        $visibility fn $name($($argument: $type),*) $(-> $output)? {
            #[inline(always)]
            fn any_machine($($argument: $type),*) $(-> $output)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx_512($($argument: $type),*) $(-> $output)? {
                    any_machine($($argument),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx_2($($argument: $type),*) $(-> $output)? {
                    any_machine($($argument),*)
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the machine has what the function is compiled for.
                    return unsafe { avx_512($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: as above.
                    return unsafe { avx_2($($argument),*) };
                }
            }
            any_machine($($argument),*)
        }
    };
}

pub(crate) use wide;
