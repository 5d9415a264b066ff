#include "textflag.h"

// func walk(pcs *[maxWalk]uintptr) (n int, whole bool)
//
// As on amd64. R29 is the frame pointer of the caller.
TEXT ·walk(SB), NOSPLIT|NOFRAME, $0-17
	MOVD pcs+0(FP), R0
	MOVD 0(g), R1
	MOVD 8(g), R2
	SUB  $16, R2
	MOVD R29, R3
	MOVD ZR, R4
	MOVB ZR, whole+16(FP)

next:
	CBZ  R3, bottom
	CMP  $64, R4
	BEQ  end
	CMP  R1, R3
	BLO  end
	CMP  R2, R3
	BHI  end
	MOVD 8(R3), R5
	MOVD R5, (R0)(R4<<3)
	ADD  $1, R4
	ADD  $16, R3, R1
	MOVD (R3), R3
	B    next

bottom:
	MOVD $1, R5
	MOVB R5, whole+16(FP)

end:
	MOVD R4, n+8(FP)
	RET
