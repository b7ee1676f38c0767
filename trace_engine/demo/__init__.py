"""The bundled pack: a small trained MoE, its sets and questions, and the recipe that made them."""
