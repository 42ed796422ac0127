//! P7, what cross-attention reads (Fig. 5 left): from which earlier components heads take their queries.
