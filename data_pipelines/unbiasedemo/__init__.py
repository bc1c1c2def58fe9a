"""UnBiasedEmo: six emotions, each searched for by several queries."""
