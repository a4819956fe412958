"""How the server makes one adapter of many: rules of `communication.lora_aggregation` that are of products.

mean(B_k A_k) is what clients found; mean(B_k) mean(A_k) is something else. The rules here are of the products B_k A_k.
"""
