//! P6, what MLP neurons read (Fig. 5 right): from which earlier components active neurons are activated.
