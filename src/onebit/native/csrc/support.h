/* Instructions that need a permission: whether the processor has them and the system lets this process use
 * them. */
int ob_has_f16c(void);
int ob_has_avxvnni(void);
int ob_has_amx(void); /* with products of bytes and of bfloat16; asks the system each time */
