"""Does what the first layer writes hurt the second layer's values?"""
