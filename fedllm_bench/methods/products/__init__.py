"""How the server makes one adapter of many where the mean of A and the mean of B do not do: `communication.lora_aggregation`.

mean(B_k A_k) is what clients found; mean(B_k) mean(A_k) is something else. The rules here are of the products B_k A_k.
"""
